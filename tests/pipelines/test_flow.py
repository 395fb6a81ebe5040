"""Which scheduler steps, and where: as diffusers configures and sets its own, or one error says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from crystools_pipelines.cogvideox import scheduler as cogvideox
from crystools_pipelines.cogvideox.pipeline import PIPELINE as COGVIDEOX
from crystools_pipelines.cogvideox.request import SCHEDULERS as COGVIDEOX_NAMES
from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.flux2.pipeline import PIPELINE as FLUX2
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.requests import schedule as requests
from crystools_pipelines.runtime.flow import FLOW_SCHEDULERS, load_flow_scheduler, set_steps
from crystools_pipelines.wan.wan21_t2v.pipeline import PIPELINE as WAN21
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_pipelines.weights.checkpoint import Checkpoint

UNIPC = {"_class_name": "UniPCMultistepScheduler"} | MODELS["wan2.1-t2v"].published()["scheduler"]
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
DPM = {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}
FEW = (1.0, 0.75, 0.5, 0.25)

Published = Callable[[str, dict[str, Any]], Checkpoint]


def test_what_a_request_may_name_is_what_there_is() -> None:
    assert {*requests.FLOW_SCHEDULERS} == {*FLOW_SCHEDULERS}
    assert {*COGVIDEOX_NAMES} == {*cogvideox.SCHEDULERS}


@pytest.fixture
def published(tmp_path: Path) -> Published:
    """The model's published configurations with this one of the scheduler."""

    def write(model: str, scheduler: dict[str, Any]) -> Checkpoint:
        folder = MODELS[model].write_published(tmp_path)
        (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
        return Checkpoint(folder)

    return write


@pytest.mark.parametrize("config", [UNIPC, EULER, DPM | {"use_flow_sigmas": True, "flow_shift": 3.0}])
def test_without_a_name_it_is_the_checkpoints_own(published: Published, config: dict[str, Any]) -> None:
    scheduler = load_flow_scheduler(published("wan2.1-t2v", config), None, 5.0)
    assert type(scheduler).__name__ == config["_class_name"]
    assert scheduler.config.get("flow_shift", scheduler.config.get("shift")) == 5.0


@pytest.mark.parametrize("config", [UNIPC | {"flow_shift": 3.0, "solver_order": 3}, EULER])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unipc", UniPCMultistepScheduler),
        ("euler", FlowMatchEulerDiscreteScheduler),
        ("dpm++", DPMSolverMultistepScheduler),
    ],
)
def test_another_steps_by_flow_matching_with_the_shift_of_the_checkpoints_own(
    published: Published, config: dict[str, Any], name: str, expected: type[Any]
) -> None:
    scheduler = load_flow_scheduler(published("wan2.1-t2v", config), name)
    assert type(scheduler) is expected
    shift = {"shift": 3.0} if name == "euler" else {"flow_shift": 3.0}
    flow = {} if name == "euler" else {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    assert {key: scheduler.config[key] for key in (flow | shift)} == flow | shift


def sigmas_and_timesteps(scheduler: Any) -> tuple[list[float], list[float]]:
    return scheduler.sigmas.tolist(), scheduler.timesteps.tolist()


def test_the_few_steps_of_a_distilled_lora_are_shifted_as_their_authors_say(published: Published) -> None:
    """1000, 750, 500 and 250 before the shift of 5."""
    request = Wan21Request("a cat", scheduler="euler", sigmas=FEW, flow_shift=5.0)
    prepared = WAN21.prepare(request, published("wan2.1-t2v", UNIPC))
    np.testing.assert_allclose(prepared.schedule.timesteps, [1000, 937.5, 833.333, 625], atol=1e-3)
    assert [phase.steps for phase in prepared.phases] == [4]


@pytest.mark.parametrize("name", ["unipc", "euler"])
def test_sigmas_are_set_as_diffusers_sets_them(published: Published, name: str) -> None:
    scheduler, own = (load_flow_scheduler(published("wan2.1-t2v", UNIPC), name, 5.0) for _ in range(2))
    set_steps(scheduler, 4, sigmas=FEW)
    own.set_timesteps(sigmas=np.array(FEW))
    assert sigmas_and_timesteps(scheduler) == sigmas_and_timesteps(own)


def test_timesteps_are_set_as_diffusers_sets_them(published: Published) -> None:
    request = Wan21Request("a cat", scheduler="euler", timesteps=(1000, 937, 625), flow_shift=1.0)
    prepared = WAN21.prepare(request, published("wan2.1-t2v", UNIPC))
    own = FlowMatchEulerDiscreteScheduler()
    own.set_timesteps(timesteps=[1000, 937, 625])
    assert sigmas_and_timesteps(prepared.scheduler) == sigmas_and_timesteps(own)


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        (
            UNIPC | {"use_flow_sigmas": False},
            "euler",
            "euler is for flow matching, and the checkpoint's own",
        ),
        (UNIPC | {"prediction_type": "epsilon"}, "dpm++", "dpm++ is for flow matching, and the checkpoint's"),
        (
            UNIPC | {"final_sigmas_type": "sigma_min"},
            "euler",
            "the checkpoint's own has final_sigmas_type = sigma_min, which euler would not do alike; ",
        ),
        (UNIPC | {"use_karras_sigmas": True}, "dpm++", "the checkpoint's own has use_karras_sigmas = True"),
        (
            EULER | {"shift_terminal": 0.1},
            "dpm++",
            "the checkpoint's own has shift_terminal = 0.1, which",
        ),
        (
            EULER | {"invert_sigmas": True},
            "unipc",
            "the checkpoint's own has invert_sigmas = True, which",
        ),
    ],
)
def test_what_another_scheduler_would_not_heed_is_refused(
    published: Published, config: dict[str, Any], name: str, message: str
) -> None:
    with pytest.raises(RequestError) as error:
        load_flow_scheduler(published("wan2.1-t2v", config), name)
    assert str(error.value).startswith(f"scheduler: {message}")


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (
            UNIPC,
            {"scheduler": "dpm++", "sigmas": FEW},
            "sigmas: dpm++ takes none; leave them out, or step",
        ),
        (
            UNIPC | {"use_flow_sigmas": False},
            {"sigmas": FEW},
            "sigmas: the checkpoint's scheduler takes none; leave them out",
        ),
        (
            EULER | {"use_karras_sigmas": True},
            {"sigmas": FEW},
            "sigmas: the checkpoint's scheduler has use_karras_sigmas; leave them out",
        ),
        (UNIPC, {"timesteps": (9, 1)}, "timesteps: only euler takes them; step with euler, or give sigmas"),
        (
            EULER,
            {"timesteps": (9, 1)},
            "timesteps: they would stay as they are, and their sigmas shift by 5; give a shift of 1, or ",
        ),
        (
            EULER | {"shift_terminal": 0.1},
            {"timesteps": (9, 1), "flow_shift": 1.0},
            "timesteps: the checkpoint's scheduler has shift_terminal; leave them out",
        ),
    ],
)
def test_sigmas_and_timesteps_that_the_scheduler_does_not_take_are_refused(
    published: Published, config: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError) as error:
        WAN21.prepare(Wan21Request("a cat", **fields), published("wan2.1-t2v", config))
    assert str(error.value).startswith(message)


def test_a_shift_by_the_size_is_refused_of_a_model_that_has_none(published: Published) -> None:
    with pytest.raises(CheckpointError, match="asks for use_dynamic_shifting: set it to false"):
        WAN21.prepare(Wan21Request("a cat"), published("wan2.1-t2v", EULER | {"use_dynamic_shifting": True}))


def test_flux2_shifts_by_the_size_whatever_the_scheduler_and_takes_sigmas_with_euler_alone(
    published: Published,
) -> None:
    own = MODELS["flux.2"].published()["scheduler"]
    checkpoint = published("flux.2", own)
    small: dict[str, Any] = {"height": 256, "width": 256, "num_inference_steps": 4}
    first = [
        FLUX2.prepare(Flux2Request("a cat", **small, scheduler=name), checkpoint).schedule.timesteps[1]
        for name in (None, "euler", "unipc", "dpm++")
    ]
    np.testing.assert_allclose(first, first[0], rtol=0.01)
    given = FLUX2.prepare(Flux2Request("a cat", height=256, width=256, sigmas=FEW), checkpoint)
    assert given.schedule.timesteps[1] == pytest.approx(first[0])  # which is where it steps by itself
    with pytest.raises(RequestError, match=r"^sigmas: only euler takes them; leave them out, or step with e"):
        FLUX2.prepare(Flux2Request("a cat", scheduler="unipc", sigmas=FEW), checkpoint)


def test_cogvideox_steps_with_either_of_its_schedulers_as_the_checkpoint_configures_it(
    published: Published,
) -> None:
    checkpoint = published("cogvideox-t2v", MODELS["cogvideox-t2v"].published()["scheduler"])
    for name, kind in ((None, CogVideoXDDIMScheduler), ("dpm", CogVideoXDPMScheduler)):
        prepared = COGVIDEOX.prepare(CogVideoXRequest("a cat", scheduler=name), checkpoint)
        assert type(prepared.scheduler) is kind
        assert prepared.scheduler.config.snr_shift_scale == 1.0
