"""The stages that Wan's models share: prompts to embeddings, noise to latents, latents to frames."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel import layout
from crystools_pipelines.requests.size import Size as VideoSize
from crystools_pipelines.runtime import multistep
from crystools_pipelines.runtime.denoising import denoising_step
from crystools_pipelines.runtime.job import AnyArray, Job, initial_noise
from crystools_pipelines.runtime.multistep import Schedule, SolverState
from crystools_pipelines.runtime.pipeline import Pipeline
from crystools_pipelines.runtime.scheduler import load_scheduler
from crystools_pipelines.runtime.stages import Step, StepCost, guided_cost, run_denoising, run_once, run_turns
from crystools_pipelines.text import t5
from crystools_pipelines.wan import flops, sharding
from crystools_pipelines.wan.request import (
    LATENT_CHANNELS,
    VAE_SPATIAL_RATIO,
    VAE_TEMPORAL_RATIO,
    WanRequest,
)
from crystools_pipelines.wan.text import MAX_TOKENS, build_text_encoder, encode, tokenize
from crystools_pipelines.wan.transformer import build_transformer, predict
from crystools_pipelines.wan.vae import build_decoder, decoding_turns
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import Size, check_all_heeded, check_classes, check_sizes
from crystools_pipelines.weights.part import Part
from crystools_tpu.telemetry import StageName

Request = TypeVar("Request", bound=WanRequest)

DECODER = Part("vae", build_decoder, sharding.VAE, (r"(encoder|quant_conv)\..*",), dtype="float32")


@dataclass(frozen=True)
class Phase:
    """Consecutive denoising steps by one transformer, with one guidance scale."""

    component: str
    steps: int
    guidance_scale: float


@dataclass(frozen=True)
class Prepared:
    """What a request needs beside the checkpoint's weights; `phases` has the noisy ones first."""

    scheduler: UniPCMultistepScheduler
    phases: tuple[Phase, ...]


class WanPipeline(Pipeline[Request, Prepared], Generic[Request]):
    """A model of the family; it says what is the shift of a request's schedule, and its phases."""

    def check_vae(self, checkpoint: Checkpoint) -> None:
        check_classes(self.model, checkpoint, ["vae"])
        config = checkpoint.config("vae")
        halvings = config["temperal_downsample"]
        sizes = [
            Size("the VAE's latent channels are", config["z_dim"], LATENT_CHANNELS),
            Size("the VAE's patch is", config["patch_size"], None),
            Size("the VAE makes sizes smaller by", 2 ** len(halvings), VAE_SPATIAL_RATIO),
            Size("the VAE makes frames fewer by", 2 ** sum(halvings), VAE_TEMPORAL_RATIO),
            Size("the number of latents' means is", len(config["latents_mean"]), LATENT_CHANNELS),
            Size("the number of latents' deviations is", len(config["latents_std"]), LATENT_CHANNELS),
        ]
        check_sizes(self.model, checkpoint, sizes)

    def check_denoiser(self, checkpoint: Checkpoint) -> None:
        self.check_transformer(checkpoint, "transformer")
        text_width = checkpoint.config("text_encoder")["d_model"]
        size = Size("the transformer's text width is", self.embedding_width(checkpoint), text_width)
        check_sizes(self.model, checkpoint, [size])

    def check_transformer(self, checkpoint: Checkpoint, component: str) -> None:
        """Raises CheckpointError unless that transformer takes and gives what the model's does."""
        check_classes(self.model, checkpoint, [component])
        config, published = checkpoint.config(component), MODELS[self.model].published()[component]
        sizes = [
            Size(f"the {component}'s image width is", config["image_dim"], None),
            Size(f"the {component}'s input channels are", config["in_channels"], published["in_channels"]),
            Size(f"the {component}'s output channels are", config["out_channels"], LATENT_CHANNELS),
            Size(f"the {component}'s patch is", list(config["patch_size"]), published["patch_size"]),
        ]
        check_sizes(self.model, checkpoint, sizes)

    def widths(self, checkpoint: Checkpoint) -> tuple[int, ...]:
        return sharding.widths(checkpoint.config("transformer"), checkpoint.config("text_encoder"))

    def embedding_width(self, checkpoint: Checkpoint) -> int:
        width: int = checkpoint.config("transformer")["text_dim"]
        return width

    @abstractmethod
    def shift(self, request: Request) -> float:
        """That of the request's schedule."""

    @abstractmethod
    def phases(
        self, request: Request, checkpoint: Checkpoint, scheduler: UniPCMultistepScheduler
    ) -> Sequence[Phase]:
        """Which transformer takes how many steps of `scheduler`, the noisy ones first."""

    def prepare(self, request: Request, checkpoint: Checkpoint) -> Prepared:
        check_all_heeded(self.model, checkpoint)
        check_classes(self.model, checkpoint, ["transformer"])
        scheduler = load_scheduler(checkpoint, UniPCMultistepScheduler, flow_shift=self.shift(request))
        phases = tuple(phase for phase in self.phases(request, checkpoint, scheduler) if phase.steps)
        for phase in phases:
            self.check_transformer(checkpoint, phase.component)
        return Prepared(scheduler, phases)

    def text_encoder(self, mesh: Mesh) -> Part[Any]:
        return t5.encoder(partial(build_text_encoder, mesh=mesh))

    def denoisers(self, mesh: Mesh, prepared: Prepared) -> list[Part[Any]]:
        return [_transformer(mesh, phase.component) for phase in prepared.phases]

    def decoder(self, mesh: Mesh) -> Part[Any]:
        return DECODER

    def encode(self, job: Job, prompts: Sequence[str]) -> jax.Array:
        encoder = job.load(self.text_encoder(job.mesh))
        return run_once(
            job,
            StageName.TEXT_ENCODE,
            encoder,
            partial(encode, encoder.module),
            *job.put(job.tokens(tokenize, prompts, MAX_TOKENS), job.everywhere),
            sharding=layout.branches(job.mesh),
            cost=_text_cost(job, len(prompts)),
        )

    def denoise(
        self,
        job: Job,
        request: Request,
        prepared: Prepared,
        embeddings: AnyArray,
        condition: NDArray[np.float32] | None,
    ) -> jax.Array:
        """The final latents. A phase's transformer need not be there any more when the next comes."""
        schedule = multistep.tabulate(prepared.scheduler, request.num_inference_steps)
        solver = multistep.start(schedule, initial_noise(request.latent_shape, request.seed))
        schedule, solver, conditioned = job.put((schedule, solver, condition), job.everywhere)
        branches = job.put(embeddings, layout.branches(job.mesh))
        for phase in prepared.phases:
            solver = _run_phase(job, phase, schedule, solver, branches, conditioned)
        final: jax.Array = solver.sample  # type: ignore[assignment]
        return final

    def decode(self, job: Job, latents: AnyArray, size: VideoSize) -> NDArray[np.float32]:
        decoder = job.load(DECODER)
        split = layout.pixels(job.mesh, latents.shape)
        return run_turns(
            job,
            StageName.VAE_DECODE,
            decoder,
            job.put(latents, job.everywhere),
            decoding_turns(decoder.module, job.checkpoint.config("vae"), latents.shape),
            sharding=layout.frames(split),
            cache_sharding=split,
        )


def _transformer(mesh: Mesh, component: str) -> Part[WanTransformer3DModel]:
    return Part(component, partial(build_transformer, mesh=mesh), sharding.TRANSFORMER)


def _run_phase(
    job: Job,
    phase: Phase,
    schedule: Schedule,
    solver: SolverState,
    embeddings: jax.Array,
    condition: jax.Array | None,
) -> SolverState:
    loaded = job.load(_transformer(job.mesh, phase.component))
    guidance = job.put(np.float32(phase.guidance_scale), job.everywhere)
    step = Step(
        partial(denoising_step, partial(predict, loaded.module, job.mesh, job.dtype), multistep.advance),
        _step_cost(job, phase.component, embeddings.shape[0], solver.sample.shape),
    )
    constants = (schedule, guidance, embeddings, condition)
    return run_denoising(job, phase.component, loaded, solver, [step] * phase.steps, constants)


def _text_cost(job: Job, prompts: int) -> StepCost:
    config = job.checkpoint.config("text_encoder")
    return StepCost(
        flops.text_encoder_flops(config, prompts, MAX_TOKENS),
        flops.text_encoder_bytes(config, prompts, MAX_TOKENS, job.itemsize),
    )


def _step_cost(job: Job, component: str, branches: int, latent_shape: Sequence[int]) -> StepCost:
    config, (_, channels, frames, height, width) = job.checkpoint.config(component), latent_shape
    return guided_cost(
        job.mesh,
        branches,
        lambda count: flops.transformer_forward_flops(
            config, (count, channels, frames, height, width), MAX_TOKENS
        ),
        lambda count: flops.transformer_forward_bytes(
            config, (count, channels, frames, height, width), MAX_TOKENS, job.itemsize
        ),
    )
