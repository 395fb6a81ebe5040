"""Latents and frames are those of diffusers' own WanImageToVideoPipeline, on one device and on several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from crystools_pipelines.run import generate
from crystools_pipelines.wan.wan22_i2v.request import Wan22I2VRequest

Reference = Callable[[Wan22I2VRequest], tuple[NDArray[np.float32], NDArray[np.float32]]]

SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 4}
# The VAE's columns are split among eight devices.
WIDE: dict[str, Any] = {"height": 48, "width": 64, "num_frames": 13, "num_inference_steps": 3}
LATENTS_TOLERANCE = 1e-3
FRAMES_TOLERANCE = 2 / 255
BFLOAT16_TOLERANCE = 0.1  # of the largest latent


def picture(height: int, width: int) -> NDArray[np.float32]:
    """Smooth colours, floats `[height, width, 3]` in 0..1, not the same in any two corners."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y)], axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of another size and shape than the videos, with transparency."""
    pixels = np.rint(255 * picture(90, 70)).astype(np.uint8)
    alpha = np.full((90, 70, 1), 128, np.uint8)
    path = tmp_path_factory.mktemp("images") / "start.png"
    Image.fromarray(np.concatenate([pixels, alpha], axis=-1)).save(path)
    return path


@pytest.mark.parametrize(
    ("devices", "fields"),
    [
        (1, SMALL | {"guidance_scale": 4.0, "guidance_scale_2": 1.0, "boundary_ratio": 0.95, "seed": 1}),
        (2, SMALL | {"guidance_scale": 1.0, "guidance_scale_2": 3.0}),
        (8, WIDE | {"seed": 2, "shift": 3.0}),
    ],
    ids=["two scales", "unguided", "wide"],
)
def test_latents_and_frames_are_those_of_diffusers(
    tiny_wan22_i2v: Path,
    diffusers_wan22_i2v: Reference,
    image_file: Path,
    fields: dict[str, Any],
    devices: int,
) -> None:
    request = Wan22I2VRequest("A cat &amp; a dog \n on the beach", "ugly", image=image_file, **fields)
    latents, frames = diffusers_wan22_i2v(request)
    generation = generate(request, checkpoint=tiny_wan22_i2v, devices=devices)
    assert generation.latents.dtype == generation.frames.dtype == np.float32
    np.testing.assert_allclose(generation.latents, latents, rtol=0, atol=LATENTS_TOLERANCE)
    np.testing.assert_allclose(generation.frames, frames, rtol=0, atol=FRAMES_TOLERANCE)


def test_bfloat16_is_near_float32(tiny_wan22_i2v: Path, diffusers_wan22_i2v: Reference) -> None:
    request = Wan22I2VRequest("a cat", image=picture(20, 30), **SMALL)
    exact, _ = diffusers_wan22_i2v(request)
    rounded = generate(request, checkpoint=tiny_wan22_i2v, devices=1, dtype="bfloat16").latents
    difference = np.abs(rounded - exact).max()
    assert 0 < difference < BFLOAT16_TOLERANCE * np.abs(exact).max()
