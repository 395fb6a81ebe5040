"""What a run of image-to-video reports, and which checkpoints it refuses."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.run import Generation, generate
from crystools_pipelines.runtime.pipeline import Phase
from crystools_pipelines.runtime.residency import free_all
from crystools_pipelines.wan.wan22_i2v.pipeline import PIPELINE
from crystools_pipelines.wan.wan22_i2v.request import Wan22I2VRequest
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu import telemetry
from crystools_tpu.telemetry import CompileFinished, StageName

GREY = np.full((16, 16, 3), 0.5, np.float32)
SMALL: dict[str, Any] = {
    "image": GREY,
    "height": 32,
    "width": 48,
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
}


def generate_counting(
    checkpoint: Path, num_frames: int, out: Path | None = None
) -> tuple[Generation, Counter[StageName]]:
    """A generation, and how many compiles each of its stages caused."""
    request = Wan22I2VRequest("a cat", num_frames=num_frames, **SMALL)
    with telemetry.subscribe(maxlen=10_000) as events:
        generation = generate(request, checkpoint=checkpoint, devices=1, out=out)
        compiles = (event.stage_name for event in events.drain() if isinstance(event, CompileFinished))
        return generation, Counter(compiles)


@pytest.fixture(scope="module")
def generation(tiny_wan22_i2v: Path, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return generate_counting(tiny_wan22_i2v, 9, tmp_path_factory.mktemp("out") / "cat.npy")[0]


def test_the_second_transformer_replaces_the_first(generation: Generation) -> None:
    assert [(stage.name.value, stage.component, len(stage.steps)) for stage in generation.report.stages] == [
        ("load", "text_encoder", 0),
        ("text_encode", None, 1),
        ("load", "vae", 0),
        ("vae_encode", None, 3),  # 9 frames are 3 latent ones
        ("load", "transformer", 0),
        ("denoise", "transformer", 2),
        ("load", "transformer_2", 0),
        ("denoise", "transformer_2", 2),
        ("load", "vae", 0),
        ("vae_decode", None, 3),
        ("save", None, 0),
    ]


def test_every_step_is_finite_and_nothing_is_compiled_after_the_first(generation: Generation) -> None:
    for stage in generation.report.stages:
        assert all(record.finite for record in stage.steps)
        assert not any(record.compiled for record in stage.steps[1:])
        assert stage.recompiles == 0, stage.recompile_reasons


def test_flops_come_from_the_architecture(generation: Generation) -> None:
    counted = [stage.name.value for stage in generation.report.stages if stage.flops is not None]
    assert counted == ["text_encode", "vae_encode", "denoise", "denoise", "vae_decode"]


def test_the_report_has_the_request_and_the_file(generation: Generation) -> None:
    report = generation.report
    assert report.pipeline == "wan2.2-i2v"
    assert {"prompt": "a cat", "shift": 5.0, "boundary_ratio": None}.items() <= report.params.items()
    assert report.output is not None
    np.testing.assert_array_equal(np.load(report.output), generation.frames)


@pytest.mark.usefixtures("generation")  # so that what is compiled once a process is out of the way
def test_compiles_do_not_grow_with_the_frames(tiny_wan22_i2v: Path) -> None:
    free_all()
    known = {id(array) for array in jax.live_arrays()}
    _, few = generate_counting(tiny_wan22_i2v, 5)
    free_all()
    _, many = generate_counting(tiny_wan22_i2v, 13)
    free_all()
    assert few[StageName.VAE_ENCODE] == few[StageName.VAE_DECODE] == 2
    assert few == many
    left = [array.shape for array in jax.live_arrays() if array.ndim and id(array) not in known]
    assert left == [], "arrays stay on the device after the run"


@pytest.mark.parametrize(
    ("fields", "phases"),
    [
        ({}, [Phase("transformer", 2, 5.0), Phase("transformer_2", 2, 5.0)]),
        ({"guidance_scale_2": 2.0}, [Phase("transformer", 2, 5.0), Phase("transformer_2", 2, 2.0)]),
        ({"boundary_ratio": 0.0}, [Phase("transformer", 4, 5.0)]),
        ({"boundary_ratio": 1.0, "guidance_scale_2": 2.0}, [Phase("transformer_2", 4, 2.0)]),
    ],
)
def test_the_boundary_divides_the_steps(
    tiny_wan22_i2v: Path, fields: dict[str, Any], phases: list[Phase]
) -> None:
    assert plan(tiny_wan22_i2v, **fields) == phases


def test_without_a_boundary_there_is_one_transformer(changed: Callable[..., Path]) -> None:
    folder = changed("model_index.json", boundary_ratio=None)
    shutil.rmtree(folder / "transformer_2")
    assert plan(folder) == [Phase("transformer", 4, 5.0)]
    with pytest.raises(RequestError, match=r"^guidance_scale_2: .* give a boundary_ratio too$"):
        plan(folder, guidance_scale_2=2.0)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "model_index.json",
            {"expand_timesteps": True},
            "is Wan2.2 5B; give a checkpoint of Wan2.2-I2V-A14B",
        ),
        ("transformer/config.json", {"in_channels": 16}, "input channels are 16, wan2.2-i2v takes 36"),
        (
            "transformer_2/config.json",
            {"image_dim": 1280},
            "transformer_2's image width is 1280, wan2.2-i2v takes None",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    changed: Callable[..., Path], file: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        plan(changed(file, **change))


def test_a_checkpoint_without_an_index_is_refused(changed: Callable[..., Path]) -> None:
    folder = changed("model_index.json")
    (folder / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no model_index\.json: it is not in diffusers' format"):
        plan(folder)


def plan(folder: Path, **fields: Any) -> list[Phase]:
    """The phases of four steps, whose timesteps are 999, 937, 833 and 625."""
    request = Wan22I2VRequest("a cat", image=GREY, num_inference_steps=4, **fields)
    return [*PIPELINE.prepare(request, Checkpoint(folder)).phases]


@pytest.fixture
def changed(tiny_wan22_i2v: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the tiny checkpoint's configurations, with changes in one of them."""

    def change(file: str, **fields: Any) -> Path:
        copy = tmp_path / "changed"
        shutil.copytree(tiny_wan22_i2v, copy, ignore=shutil.ignore_patterns("*.safetensors"))
        (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | fields))
        return copy

    return change
