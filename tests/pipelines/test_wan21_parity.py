"""Latents and frames are those of diffusers' own WanPipeline, on one device and on eight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crystools_pipelines.requests.presets import preset_named
from crystools_pipelines.run import generate
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request

Reference = Callable[[Wan21Request], tuple[NDArray[np.float32], NDArray[np.float32]]]

SIZES: dict[str, dict[str, Any]] = {
    "small": {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 4},
    # The VAE's columns are split among eight devices.
    "wide": {"height": 48, "width": 64, "num_frames": 13, "num_inference_steps": 3},
}
LATENTS_TOLERANCE = 1e-3
FRAMES_TOLERANCE = 2 / 255


# Of what a distilled LoRA is published with.
FEW_STEPS = {
    name: value
    for name, value in preset_named("wan2.1-t2v", "lightx2v-4step").settings.items()
    if name != "loras"
}


def has_diffusers_latents_and_frames(
    request: Wan21Request, checkpoint: Path, diffusers_wan: Reference, devices: int
) -> None:
    latents, frames = diffusers_wan(request)
    generation = generate(request, checkpoint=checkpoint, devices=devices)
    assert generation.latents.dtype == generation.frames.dtype == np.float32
    np.testing.assert_allclose(generation.latents, latents, rtol=0, atol=LATENTS_TOLERANCE)
    np.testing.assert_allclose(generation.frames, frames, rtol=0, atol=FRAMES_TOLERANCE)


# Every two of these and of the few steps below meet: one device and eight, both sizes, guided and not, either
# shift.
@pytest.mark.parametrize(
    ("devices", "size", "guidance_scale", "flow_shift"),
    [
        (1, "small", 5.0, 3.0),
        (8, "small", 1.0, 3.0),
        (8, "small", 5.0, 5.0),
        (8, "wide", 5.0, 3.0),
    ],
)
def test_latents_and_frames_are_those_of_diffusers(
    tiny_wan21: Path,
    diffusers_wan: Reference,
    devices: int,
    size: str,
    guidance_scale: float,
    flow_shift: float,
) -> None:
    request = Wan21Request(
        "A cat &amp; a dog \n on the beach",
        "ugly",
        **SIZES[size],
        guidance_scale=guidance_scale,
        flow_shift=flow_shift,
    )
    has_diffusers_latents_and_frames(request, tiny_wan21, diffusers_wan, devices)


def test_few_steps_of_euler_without_guidance_are_those_of_diffusers(
    tiny_wan21: Path, diffusers_wan: Reference
) -> None:
    request = Wan21Request("A cat & a dog", "ugly", **SIZES["wide"] | FEW_STEPS)
    assert (request.num_inference_steps, request.branches) == (4, 1)
    has_diffusers_latents_and_frames(request, tiny_wan21, diffusers_wan, devices=1)


def test_another_seed_prompt_or_flow_shift_is_another_video(tiny_wan21: Path) -> None:
    def latents(prompt: str = "a cat", seed: int = 1, flow_shift: float = 3.0) -> NDArray[np.float32]:
        request = Wan21Request(
            prompt, height=32, width=32, num_frames=1, num_inference_steps=2, seed=seed, flow_shift=flow_shift
        )
        return generate(request, checkpoint=tiny_wan21, devices=1).latents

    first = latents()
    np.testing.assert_array_equal(latents(), first)
    for other in (latents(prompt="a red car"), latents(seed=2), latents(flow_shift=5.0)):
        assert np.abs(other - first).max() > 1e-2


def test_bfloat16_is_near_float32(tiny_wan21: Path) -> None:
    request = Wan21Request("a cat", height=32, width=32, num_frames=1, num_inference_steps=2)
    exact = generate(request, checkpoint=tiny_wan21, devices=1).latents
    rounded = generate(request, checkpoint=tiny_wan21, devices=1, dtype="bfloat16").latents
    difference = np.abs(rounded - exact).max()
    assert 0 < difference < 0.1 * np.abs(exact).max()
