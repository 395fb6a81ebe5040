"""Settings that are published together: each preset makes a request that its model serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crystools_pipelines.errors import RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.requests.lora import Lora
from crystools_pipelines.requests.presets import PRESETS, Preset, preset_named, presets_of
from crystools_pipelines.runtime.job import params_of
from crystools_pipelines.weights.checkpoint import Checkpoint

LIGHTX2V = "lightx2v-4step"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: f"{preset.model}-{preset.name}")
def test_a_preset_makes_a_request_that_its_model_can_prepare(preset: Preset, tmp_path: Path) -> None:
    model = MODELS[preset.model]
    request = model.request_class().of_any_content(**preset.beside({}), height=64, width=64, num_frames=5)
    checkpoint = Checkpoint(model.write_published(tmp_path))
    prepared = model.pipeline().prepare(request, checkpoint)
    assert sum(phase.steps for phase in prepared.phases) == request.num_inference_steps
    assert preset.source.startswith("https://")
    assert preset.about


@pytest.mark.parametrize(
    ("model", "steps", "loras"),
    [
        (
            "wan2.1-t2v",
            [4],
            "lightx2v/Wan2.1-Distill-Loras/wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors=1",
        ),
        (
            "wan2.2-t2v",
            [2, 2],
            "high:lightx2v/Wan2.2-Distill-Loras/"
            "wan2.2_t2v_A14b_high_noise_lora_rank64_lightx2v_4step_1217.safetensors=1, "
            "low:lightx2v/Wan2.2-Distill-Loras/"
            "wan2.2_t2v_A14b_low_noise_lora_rank64_lightx2v_4step_1217.safetensors=1",
        ),
        (
            "wan2.2-i2v",
            [2, 2],
            "high:lightx2v/Wan2.2-Distill-Loras/"
            "wan2.2_i2v_A14b_high_noise_lora_rank64_lightx2v_4step_1022.safetensors=1, "
            "low:lightx2v/Wan2.2-Distill-Loras/"
            "wan2.2_i2v_A14b_low_noise_lora_rank64_lightx2v_4step_1022.safetensors=1",
        ),
    ],
)
def test_lightx2v_takes_four_steps_of_one_branch_half_of_them_by_each_expert(
    model: str, steps: list[int], loras: str, tmp_path: Path
) -> None:
    fields = preset_named(model, LIGHTX2V).beside({})
    request = MODELS[model].request_class().of_any_content(**fields)
    prepared = MODELS[model].pipeline().prepare(request, Checkpoint(MODELS[model].write_published(tmp_path)))
    assert (request.branches, [phase.steps for phase in prepared.phases]) == (1, steps)
    assert {phase.guidance_scale for phase in prepared.phases} == {1.0}
    np.testing.assert_allclose(prepared.schedule.timesteps, [1000, 937.5, 833.333, 625], atol=1e-3)
    params = params_of(request)
    assert (params["scheduler"], params["sigmas"]) == ("euler", "1.0, 0.75, 0.5, 0.25")
    assert params["loras"] == loras


def test_what_is_asked_for_counts_and_the_rest_is_the_presets() -> None:
    preset = preset_named("wan2.1-t2v", LIGHTX2V)
    own = (Lora("mine.safetensors"),)
    fields = preset.beside({"flow_shift": 3.0, "loras": own})
    assert (fields["flow_shift"], fields["loras"], fields["guidance_scale"]) == (3.0, own, 1.0)
    assert fields["sigmas"] == (1.0, 0.75, 0.5, 0.25)


@pytest.mark.parametrize(
    "given", [{"num_inference_steps": 8}, {"scheduler": "dpm++"}, {"timesteps": (1000, 500)}]
)
def test_its_sigmas_are_for_its_own_steps_and_scheduler(given: dict[str, object]) -> None:
    fields = preset_named("wan2.1-t2v", LIGHTX2V).beside(given)
    assert "sigmas" not in fields
    assert "sigmas" in preset_named("wan2.1-t2v", LIGHTX2V).beside({**given, "sigmas": (1.0, 0.5)})


def test_what_is_asked_for_as_the_preset_has_it_leaves_its_sigmas() -> None:
    given = {"num_inference_steps": 4, "scheduler": "euler"}
    preset = preset_named("wan2.1-t2v", LIGHTX2V)
    assert preset.beside(given) == preset.beside({})


def test_an_unknown_preset_is_refused_with_those_of_the_model() -> None:
    with pytest.raises(RequestError) as error:
        preset_named("wan2.1-t2v", "fast")
    assert str(error.value) == "preset: 'fast' is no preset of wan2.1-t2v; give lightx2v-4step"
    with pytest.raises(
        RequestError, match=r"^preset: 'fast' is no preset of flux\.2; it has none; leave it out$"
    ):
        preset_named("flux.2", "fast")
    assert presets_of("flux.2") == {}
