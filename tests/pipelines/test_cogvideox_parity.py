"""Latents and frames are those of diffusers' own CogVideoXPipeline, on one device and on several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.run import generate

Reference = Callable[[CogVideoXRequest], tuple[NDArray[np.float32], NDArray[np.float32]]]

LATENTS_TOLERANCE = 1e-3
FRAMES_TOLERANCE = 2 / 255


def small(prompt: str, guidance_scale: float, seed: int) -> CogVideoXRequest:
    return CogVideoXRequest(
        prompt,
        "ugly",
        height=32,
        width=48,
        num_frames=17,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        seed=seed,
    )


# Eight frames are two latent ones: nothing is padded, and the VAE has one even turn.
UNPADDED = CogVideoXRequest(
    "A cat", height=48, width=64, num_frames=8, num_inference_steps=3, guidance_scale=1.0
)
DYNAMIC = CogVideoXRequest(
    "A cat", height=32, width=32, num_frames=1, num_inference_steps=7, use_dynamic_cfg=True
)


@pytest.mark.parametrize(
    ("devices", "request_"),
    [
        pytest.param(1, small("A cat &amp; a dog", 6.0, seed=1), id="1-guided"),
        pytest.param(2, small("A cat on the beach", 6.0, seed=2), id="2-guided"),
        pytest.param(8, small("A cat on the beach", 6.0, seed=1), id="8-guided"),
        pytest.param(2, small("A cat", 1.0, seed=1), id="2-unguided"),
        pytest.param(8, UNPADDED, id="8-unguided-unpadded"),
        pytest.param(1, DYNAMIC, id="1-dynamic"),
    ],
)
def test_latents_and_frames_are_those_of_diffusers(
    tiny_cogvideox: Path, diffusers_cogvideox: Reference, devices: int, request_: CogVideoXRequest
) -> None:
    latents, frames = diffusers_cogvideox(request_)
    generation = generate(request_, checkpoint=tiny_cogvideox, devices=devices)
    assert generation.latents.dtype == generation.frames.dtype == np.float32
    assert len(generation.frames) == request_.num_frames
    np.testing.assert_allclose(generation.latents, latents, rtol=0, atol=LATENTS_TOLERANCE)
    np.testing.assert_allclose(generation.frames, frames, rtol=0, atol=FRAMES_TOLERANCE)


def test_bfloat16_is_near_float32(tiny_cogvideox: Path) -> None:
    request = CogVideoXRequest("a cat", height=32, width=32, num_frames=1, num_inference_steps=2)
    exact = generate(request, checkpoint=tiny_cogvideox, devices=1).latents
    rounded = generate(request, checkpoint=tiny_cogvideox, devices=1, dtype="bfloat16").latents
    difference = np.abs(rounded - exact).max()
    assert 0 < difference < 0.1 * np.abs(exact).max()
