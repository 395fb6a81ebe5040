"""The stages that Wan's models share: prompts to embeddings, noise to latents, latents to frames."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from diffusers import UniPCMultistepScheduler
from numpy.typing import NDArray
from transformers import AutoTokenizer

from crystools_pipelines.runtime import multistep
from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.errors import CheckpointError
from crystools_pipelines.runtime.job import Job, initial_noise
from crystools_pipelines.runtime.mesh import DATA
from crystools_pipelines.runtime.multistep import Schedule, SolverState
from crystools_pipelines.runtime.out_of_memory import with_room
from crystools_pipelines.wan21 import flops, sharding
from crystools_pipelines.wan21.request import WanRequest
from crystools_pipelines.wan21.text import MAX_TOKENS, build_text_encoder, encode, tokenize
from crystools_pipelines.wan21.transformer import build_transformer, make_step
from crystools_pipelines.wan21.vae import build_decoder, decode_frames
from crystools_tpu.telemetry import StageName


def encode_prompts(job: Job, prompts: list[str]) -> jax.Array:
    """Embeddings `[prompts, 512, width]`, split over the guidance branches."""
    encoder, weights = job.load("text_encoder", build_text_encoder, sharding.TEXT_ENCODER)
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint.folder("tokenizer"))
    config = job.checkpoint.config("text_encoder")
    with job.run.stage(
        StageName.TEXT_ENCODE,
        steps=1,
        flops_per_step=flops.text_encoder_flops(config, len(prompts), MAX_TOKENS),
        flops_method="architecture",
    ) as stage:
        ids, mask = tokenize(prompts, tokenizer)
        program = jax.jit(
            partial(encode, encoder), out_shardings=(sharding.branches(job.mesh), job.everywhere)
        )
        embeddings: jax.Array
        embeddings, finite = with_room(program, weights, ids, mask)
        stage.step(finite)
    return embeddings


@dataclass(frozen=True)
class Phase:
    """Consecutive denoising steps by one transformer, with one guidance scale."""

    component: str
    steps: int
    guidance_scale: float


def denoise(
    job: Job,
    request: WanRequest,
    scheduler: UniPCMultistepScheduler,
    phases: Sequence[Phase],
    embeddings: jax.Array,
    condition: jax.Array | None = None,
) -> jax.Array:
    """The final latents, replicated. A phase's transformer need not be there any more when the next comes."""
    schedule = multistep.tabulate(scheduler, request.num_inference_steps, job.everywhere)
    noise = initial_noise(request.latent_shape, request.seed)
    solver = multistep.start(schedule, noise, job.everywhere)
    for phase in phases:
        solver = _run_phase(job, phase, schedule, solver, embeddings, condition)
    return solver.sample


def _run_phase(
    job: Job,
    phase: Phase,
    schedule: Schedule,
    solver: SolverState,
    embeddings: jax.Array,
    condition: jax.Array | None,
) -> SolverState:
    model, weights = job.load(
        phase.component, partial(build_transformer, mesh=job.mesh), sharding.TRANSFORMER
    )
    cost = _step_cost(job, phase.component, embeddings.shape[0], solver.sample.shape)
    with job.run.stage(StageName.DENOISE, component=phase.component, steps=phase.steps, **cost) as stage:
        guidance = jax.device_put(np.float32(phase.guidance_scale), job.everywhere)
        step = jax.jit(
            make_step(model, job.mesh, jnp.dtype(job.dtype)), donate_argnums=2, out_shardings=job.everywhere
        )
        lowered = step.lower(weights, schedule, solver, embeddings, guidance, condition)
        compiled = with_room(lowered.compile)
        for _ in range(phase.steps):
            solver, finite = with_room(compiled, weights, schedule, solver, embeddings, guidance, condition)
            stage.step(finite)
    return solver


def decode_latents(job: Job, latents: jax.Array) -> NDArray[np.float32]:
    """The video frames `[frames, height, width, 3]` in 0..1, on the host."""
    decoder, weights = job.load("vae", build_decoder, sharding.VAE, dtype="float32")
    config = job.checkpoint.config("vae")
    batch, channels, count, height, width = latents.shape

    def cost(frames: int) -> float:
        return flops.vae_decode_flops(config, (batch, channels, frames, height, width))

    return vae_stage(
        job, StageName.VAE_DECODE, count, cost, decode_frames(decoder, weights, latents, job.mesh)
    )


def vae_stage(
    job: Job,
    name: StageName,
    count: int,
    cost: Callable[[int], float],
    outputs: Iterator[tuple[jax.Array, jax.Array]],
    axis: int = 0,
) -> NDArray[np.float32]:
    """A stage with a step for each of `count` latent frames; `cost(n)` is the FLOPs of the first n.

    `outputs` yields what becomes of each and whether it is finite. On the host, joined along `axis`.
    """
    first = cost(1)
    with job.run.stage(
        name, steps=count, flops_per_step=cost(2) - first, flops_method="architecture"
    ) as stage:
        chunks = []
        for index, (output, finite) in enumerate(outputs):
            output.copy_to_host_async()
            chunks.append(output)
            stage.step(finite, flops=first if index == 0 else None)
        return np.concatenate([np.asarray(chunk) for chunk in chunks], axis=axis)


def _step_cost(job: Job, component: str, branches: int, latent_shape: Sequence[int]) -> dict[str, Any]:
    """What one denoising step must compute and move, all branches together, for the stage's report."""
    config = job.checkpoint.config(component)
    _, channels, frames, height, width = latent_shape
    groups = job.mesh.shape[DATA]  # each group of devices reads all the weights for its share of the branches
    share = (branches // groups, channels, frames, height, width)
    moved = flops.transformer_forward_bytes(config, share, MAX_TOKENS, jnp.dtype(job.dtype).itemsize)
    every = (branches, channels, frames, height, width)
    return {
        "flops_per_step": flops.transformer_forward_flops(config, every, MAX_TOKENS),
        "flops_method": "architecture",
        "bytes_per_step": groups * moved,
    }


def load_scheduler(checkpoint: Checkpoint, shift: float) -> UniPCMultistepScheduler:
    """The checkpoint's scheduler with this shift of its flow. Raises CheckpointError where it is another."""
    config = checkpoint.config("scheduler", "scheduler_config.json")
    if config["_class_name"] != UniPCMultistepScheduler.__name__:
        raise CheckpointError(
            f"the scheduler is {config['_class_name']}; give a checkpoint with UniPCMultistepScheduler"
        )
    return UniPCMultistepScheduler.from_config(config, flow_shift=shift)
