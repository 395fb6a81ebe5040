"""Latents and image are those of diffusers' own Flux2Pipeline, on one device, on two and on eight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, Flux2Pipeline, UniPCMultistepScheduler
from numpy.typing import NDArray

from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.run import generate
from crystools_pipelines.tiny import write_tiny_checkpoint

Reference = Callable[[Flux2Request], tuple[NDArray[np.float32], NDArray[np.float32]]]

SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 3}
# The VAE's columns are split among eight devices; the schedule shifts otherwise.
WIDE = {"height": 48, "width": 128, "num_inference_steps": 4}
OTHERS: dict[str, Any] = {"unipc": UniPCMultistepScheduler, "dpm++": DPMSolverMultistepScheduler}
LATENTS_TOLERANCE = 1e-3
IMAGE_TOLERANCE = 2 / 255


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint("flux.2", tmp_path_factory.mktemp("checkpoints") / "flux2")


@pytest.fixture(scope="module")
def diffusers_flux2(checkpoint: Path) -> Reference:
    """Latents `[1, tokens, 128]` and image `[1, height, width, 3]` from diffusers' Flux2Pipeline in torch."""
    pipeline = Flux2Pipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    own = pipeline.scheduler

    def generate(request: Flux2Request) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        kept: dict[str, Any] = {}

        def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            kept.update(tensors)
            return tensors

        pipeline.scheduler = own
        if request.scheduler is not None:
            pipeline.scheduler = OTHERS[request.scheduler].from_config(
                {**own.config, "shift": None},
                use_flow_sigmas=True,
                prediction_type="flow_prediction",
            )
        image = pipeline(
            prompt=request.prompt,
            sigmas=request.sigmas,
            height=request.height,
            width=request.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="np",
            callback_on_step_end=keep,
        ).images
        return kept["latents"].numpy(), image

    return generate


@pytest.mark.parametrize(
    ("devices", "fields", "guidance_scale", "seed"),
    [
        (1, SMALL | {"sigmas": (1.0, 0.6, 0.2)}, 1.0, 7),
        (2, SMALL | {"scheduler": "unipc"}, 4.0, 42),
        (8, SMALL | {"scheduler": "dpm++"}, 0.0, 42),
        (8, WIDE, 4.0, 42),
    ],
)
def test_latents_and_image_are_those_of_diffusers(
    checkpoint: Path,
    diffusers_flux2: Reference,
    devices: int,
    fields: dict[str, Any],
    guidance_scale: float,
    seed: int,
) -> None:
    request = Flux2Request("A cat [IMG] on the\n beach", **fields, guidance_scale=guidance_scale, seed=seed)
    latents, image = diffusers_flux2(request)
    generation = generate(request, checkpoint=checkpoint, devices=devices)
    assert generation.latents.dtype == generation.frames.dtype == np.float32
    np.testing.assert_allclose(generation.latents, latents, rtol=0, atol=LATENTS_TOLERANCE)
    np.testing.assert_allclose(generation.frames, image, rtol=0, atol=IMAGE_TOLERANCE)


def test_another_seed_prompt_or_guidance_is_another_image(diffusers_flux2: Reference) -> None:
    """So that equality with diffusers says something."""
    first, _ = diffusers_flux2(Flux2Request("a cat", **SMALL))
    others = [
        Flux2Request("a red car", **SMALL),
        Flux2Request("a cat", **SMALL, seed=1),
        Flux2Request("a cat", **SMALL, guidance_scale=1.0),
    ]
    for other in others:
        assert np.abs(diffusers_flux2(other)[0] - first).max() > 2 * LATENTS_TOLERANCE


def test_bfloat16_is_near_float32(checkpoint: Path, diffusers_flux2: Reference) -> None:
    request = Flux2Request("a cat", **SMALL)
    exact, _ = diffusers_flux2(request)
    rounded = generate(request, checkpoint=checkpoint, devices=1, dtype="bfloat16").latents
    difference = np.abs(rounded - exact).max()
    assert 0 < difference < 0.1 * np.abs(exact).max()
