"""Wan2.2 text-to-video: latents and frames are those of diffusers' own WanPipeline with two transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import WanPipeline

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.requests.presets import preset_named
from crystools_pipelines.run import generate
from crystools_pipelines.runtime.pipeline import Phase
from crystools_pipelines.wan.wan22_t2v.pipeline import PIPELINE
from crystools_pipelines.wan.wan22_t2v.request import Wan22T2VRequest
from crystools_pipelines.weights.checkpoint import Checkpoint
from tests.pipelines.conftest import Answer, answer, scheduler_of

SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 4}
# The VAE's columns are split among eight devices.
WIDE: dict[str, Any] = {"height": 48, "width": 64, "num_frames": 13, "num_inference_steps": 3}
# Of what two distilled LoRAs are published with.
FEW_STEPS: dict[str, Any] = {
    name: value
    for name, value in preset_named("wan2.2-t2v", "lightx2v-4step").settings.items()
    if name != "loras"
}
LATENTS_TOLERANCE = 1e-3
FRAMES_TOLERANCE = 2 / 255


def by_diffusers(folder: Path, request: Wan22T2VRequest) -> Answer:
    """Its latents and frames, in torch."""
    pipeline = WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler_of(request, pipeline.scheduler.config, request.shift)
    if request.boundary_ratio is not None:
        pipeline.register_to_config(boundary_ratio=request.boundary_ratio)
    return answer(pipeline, request, guidance_scale_2=request.guidance_scale_2)


@pytest.mark.parametrize(
    ("devices", "fields"),
    [
        (1, SMALL),
        (8, WIDE | FEW_STEPS | {"seed": 2}),
    ],
    ids=["as published", "wide, two steps by each expert without guidance"],
)
def test_latents_and_frames_are_those_of_diffusers(
    tiny_wan22_t2v: Path, fields: dict[str, Any], devices: int
) -> None:
    request = Wan22T2VRequest("A cat &amp; a dog \n on the beach", "ugly", **fields)
    latents, frames = by_diffusers(tiny_wan22_t2v, request)
    generation = generate(request, checkpoint=tiny_wan22_t2v, devices=devices)
    np.testing.assert_allclose(generation.latents, latents, rtol=0, atol=LATENTS_TOLERANCE)
    np.testing.assert_allclose(generation.frames, frames, rtol=0, atol=FRAMES_TOLERANCE)


@pytest.mark.parametrize(
    ("fields", "phases"),
    [
        ({}, [Phase("transformer", 3, 4.0), Phase("transformer_2", 1, 3.0)]),
        ({"guidance_scale_2": None}, [Phase("transformer", 3, 4.0), Phase("transformer_2", 1, 4.0)]),
        ({"boundary_ratio": 0.0}, [Phase("transformer", 4, 4.0)]),
        ({"boundary_ratio": 1.0}, [Phase("transformer_2", 4, 3.0)]),
    ],
)
def test_the_boundary_divides_the_steps(
    tiny_wan22_t2v: Path, fields: dict[str, Any], phases: list[Phase]
) -> None:
    """The timesteps of four steps are 999, 972, 922 and 799."""
    request = Wan22T2VRequest("a cat", num_inference_steps=4, **fields)
    assert [*PIPELINE.prepare(request, Checkpoint(tiny_wan22_t2v)).phases] == phases


def test_the_defaults_are_those_of_its_authors() -> None:
    request = Wan22T2VRequest("a cat")
    assert (request.num_inference_steps, request.shift) == (40, 12.0)
    assert (request.guidance_scale, request.guidance_scale_2) == (4.0, 3.0)
    assert (request.height, request.width, request.num_frames) == (720, 1280, 81)


@pytest.mark.parametrize("boundary_ratio", [None, 0.875])
def test_a_checkpoint_of_one_transformer_is_refused_with_the_model_that_takes_it(
    tiny_wan21: Path, boundary_ratio: float | None
) -> None:
    refused = (
        r" is of WanPipeline with one transformer, wan2\.2-t2v takes two; give a .*, or use wan2\.1-t2v$"
    )
    with pytest.raises(CheckpointError, match=refused):
        PIPELINE.prepare(Wan22T2VRequest("a cat", boundary_ratio=boundary_ratio), Checkpoint(tiny_wan21))
    request = Wan22T2VRequest("a cat", boundary_ratio=0.0)
    (phase,) = PIPELINE.prepare(request, Checkpoint(tiny_wan21)).phases
    assert phase == Phase("transformer", 40, 4.0)
