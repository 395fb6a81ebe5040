"""Step caches skip the steps that diffusers' hooks skip, on diffusers' own pipelines, and end in its latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline, Flux2Pipeline, UniPCMultistepScheduler, WanPipeline
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from numpy.typing import NDArray

from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.requests.step_cache import StepCache, parse_step_cache
from crystools_pipelines.run import started_run
from crystools_pipelines.runtime.job import choose_devices, params_of
from crystools_pipelines.runtime.mag_ratios import Measured
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_pipelines.wan.wan22_t2v.request import Wan22T2VRequest
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu.telemetry import RunReport, StageName, StageReport

STEPS = 9
TOLERANCE = 1e-3
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """The latents, and which of the guidance branches ran all blocks in each step."""

    latents: Array
    ran: list[int]


@dataclass(frozen=True)
class Model:
    """A tiny model, with the embeddings of a prompt and of what is not to be shown."""

    folder: Path
    request: Any
    torch_pipeline: type[Any]
    text: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def embeddings(self) -> Array:
        shape = (self.request.branches, *self.text)
        return np.random.default_rng(5).normal(size=shape).astype(np.float32)

    def asking(self, rule: str | None, **fields: Any) -> Any:
        step_cache = None if rule is None else parse_step_cache("step_cache", rule)
        return replace(self.request, step_cache=step_cache, **fields)

    def ours(self, rule: str | None, devices: int = 1, **fields: Any) -> tuple[Array, RunReport]:
        """The final latents and the run's report."""
        request = self.asking(rule, **fields)
        pipeline, checkpoint = MODELS[request.model].pipeline(), Checkpoint(self.folder)
        prepared = pipeline.prepare(request, checkpoint)
        mesh = pipeline.mesh(choose_devices(devices), checkpoint, request.branches)
        parts = pipeline.denoisers(mesh, prepared)
        with started_run(request.model, params_of(request), checkpoint, mesh, parts) as job:
            condition = pipeline.condition(job, request, prepared)
            latents = np.asarray(pipeline.denoise(job, request, prepared, self.embeddings, condition))
        return pipeline.without_padding(request, latents), job.run.report

    @cached_property
    def _in_torch(self) -> Any:
        pipeline = self.torch_pipeline.from_pretrained(self.folder, text_encoder=None, tokenizer=None)
        pipeline.set_progress_bar_config(disable=True)
        if self.torch_pipeline is WanPipeline:
            shift = getattr(self.request, "flow_shift", None) or self.request.shift
            pipeline.scheduler = UniPCMultistepScheduler.from_config(
                pipeline.scheduler.config, flow_shift=shift
            )
        return pipeline

    def theirs(self, *configs: Any, hooked: Callable[[Any], Any] | None = None) -> Answer:
        """By diffusers with a config for each transformer, or with what `hooked` does to the first."""
        pipeline, request = self._in_torch, self.request
        transformers = [pipeline.transformer, getattr(pipeline, "transformer_2", None)]
        transformers = [each for each in transformers if each is not None]
        calls, ran, kept = [0], [], {}
        counting = []
        for transformer, config in zip(transformers, configs, strict=False):
            transformer.enable_cache(config)
        for transformer in transformers:
            stacks = [getattr(transformer, name, None) for name in ("blocks", "transformer_blocks")]
            block = next(stack for stack in stacks if stack is not None)[1]
            inner = next(getattr(block, name) for name in ("attn1", "attn") if hasattr(block, name))

            def count(*_: Any) -> None:
                calls[0] += 1

            counting.append(inner.register_forward_hook(count))

        def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            kept.update(tensors)
            ran.append(calls[0])
            calls[0] = 0
            return tensors

        prompts = torch.from_numpy(self.embeddings)
        embeddings = {"prompt_embeds": prompts[:1]}
        if request.branches == 2:
            embeddings["negative_prompt_embeds"] = prompts[1:]
        context = (
            pipeline.transformer.cache_context("all")
            if self.torch_pipeline is Flux2Pipeline
            else nullcontext()
        )
        with context if hooked is None else hooked(pipeline.transformer):
            pipeline(
                **embeddings,
                **self.options,
                height=request.height,
                width=request.width,
                num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
                generator=torch.Generator().manual_seed(request.seed),
                output_type="latent",
                callback_on_step_end=keep,
            )
        for each in counting:
            each.remove()
        for transformer, _ in zip(transformers, configs, strict=False):
            transformer.disable_cache()
        latents = kept["latents"].numpy()
        padding = getattr(request, "padding_frames", 0)
        return Answer(latents[:, padding:] if padding else latents, ran)


def denoising(report: RunReport) -> list[StageReport]:
    return [stage for stage in report.stages if stage.name is StageName.DENOISE]
