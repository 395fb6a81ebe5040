"""Diffusers' answer to the same request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXPipeline,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)
from diffusers.utils import load_image
from numpy.typing import NDArray

from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.runtime import residency
from crystools_pipelines.wan.request import WanRequest
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_pipelines.wan.wan22_i2v.request import Wan22I2VRequest

Answer = tuple[NDArray[np.float32], NDArray[np.float32]]
Reference = Callable[[Wan21Request], Answer]
ImageReference = Callable[[Wan22I2VRequest], Answer]


def limited_to(device_bytes: int) -> AbstractContextManager[object]:
    """Within, every device has so many bytes, instead of as many as its backend says."""
    return mock.patch.object(residency, "device_limit_bytes", return_value=device_bytes)


@pytest.fixture(scope="session", autouse=True)
def quick(compile_cache: None) -> None:
    """Every test of the pipelines compiles."""


@pytest.fixture(scope="session")
def diffusers_wan(tiny_wan21: Path) -> Reference:
    """Latents `[1, 16, ...]` and frames `[frames, height, width, 3]` from diffusers' WanPipeline in torch."""
    pipeline = WanPipeline.from_pretrained(tiny_wan21)
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config

    def generate(request: Wan21Request) -> Answer:
        pipeline.scheduler = scheduler_of(request, config, request.flow_shift)
        return answer(pipeline, request)

    return generate


@pytest.fixture(scope="session")
def diffusers_wan22_i2v(tiny_wan22_i2v: Path) -> ImageReference:
    """The same from diffusers' WanImageToVideoPipeline, with both of its transformers."""
    from diffusers import WanImageToVideoPipeline

    pipeline = WanImageToVideoPipeline.from_pretrained(tiny_wan22_i2v)
    pipeline.set_progress_bar_config(disable=True)
    config, published_ratio = pipeline.scheduler.config, pipeline.config.boundary_ratio

    def generate(request: Wan22I2VRequest) -> Answer:
        pipeline.scheduler = UniPCMultistepScheduler.from_config(config, flow_shift=request.shift)
        ratio = published_ratio if request.boundary_ratio is None else request.boundary_ratio
        pipeline.register_to_config(boundary_ratio=ratio)
        if isinstance(request.image, np.ndarray):
            image = torch.from_numpy(request.image).permute(2, 0, 1).unsqueeze(0)
        else:
            image = load_image(str(request.image))
        return answer(pipeline, request, image=image, guidance_scale_2=request.guidance_scale_2)

    return generate


def scheduler_of(request: WanRequest, config: Any, shift: float) -> Any:
    """The scheduler that the request asks for, which steps at its sigmas; diffusers' pipelines take none."""
    if request.scheduler is None:
        return UniPCMultistepScheduler.from_config(config, flow_shift=shift)
    assert request.scheduler == "euler"
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps = partial(scheduler.set_timesteps, sigmas=request.sigmas)
    return scheduler


def answer(pipeline: Any, request: WanRequest, **others: Any) -> Answer:
    """What one of Wan's pipelines makes of what all of them are asked, and of `others`."""
    kept: dict[str, Any] = {}

    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        kept.update(tensors)
        return tensors

    frames = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        height=request.height,
        width=request.width,
        num_frames=request.num_frames,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        callback_on_step_end=keep,
        **others,
    ).frames[0]
    return kept["latents"].numpy(), frames


@pytest.fixture(scope="session")
def diffusers_cogvideox(tiny_cogvideox: Path) -> Callable[[CogVideoXRequest], Any]:
    """Latents `[1, frames, 16, ...]` that become video, and frames, from diffusers' CogVideoXPipeline."""
    pipeline = CogVideoXPipeline.from_pretrained(tiny_cogvideox)
    pipeline.set_progress_bar_config(disable=True)

    def generate(request: CogVideoXRequest) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        kept: dict[str, Any] = {}

        def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            kept.update(tensors)
            return tensors

        frames = pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            height=request.height,
            width=request.width,
            num_frames=request.num_frames,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            use_dynamic_cfg=request.use_dynamic_cfg,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="np",
            callback_on_step_end=keep,
        ).frames[0]
        return kept["latents"].numpy()[:, request.padding_frames :], frames

    return generate
