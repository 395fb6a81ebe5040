"""CogVideoX text-to-video: a prompt and a diffusers checkpoint to frames, every stage and step reported."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from transformers import AutoTokenizer

from crystools_pipelines.cogvideox import flops, scheduler, sharding
from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.cogvideox.text import MAX_TOKENS, build_text_encoder, encode, tokenize
from crystools_pipelines.cogvideox.transformer import (
    build_transformer,
    check_transformer,
    make_step,
    rotary_embedding,
)
from crystools_pipelines.cogvideox.vae import build_decoder, decode_turns, turns
from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.errors import RequestError
from crystools_pipelines.runtime.job import Generation, Job, choose_devices, choose_dtype, started_run
from crystools_pipelines.runtime.mesh import DATA, make_mesh
from crystools_pipelines.runtime.out_of_memory import with_room
from crystools_pipelines.runtime.video import video_writer, write_video
from crystools_tpu.telemetry import StageName

__all__ = ["PIPELINE", "CogVideoXRequest", "Generation", "generate"]

PIPELINE = "cogvideox-t2v"


def generate(
    request: CogVideoXRequest,
    *,
    checkpoint: str | Path,
    devices: int = 0,
    dtype: str | None = None,
    fps: int = 16,
    out: Path | None = None,
) -> Generation:
    """Generates one video and, if `out` is given, writes it there: `.mp4`, or `.npy` for the bare frames.

    `checkpoint` is a folder in diffusers' format or a hub id. `devices` is how many jax devices to use, 0 for
    all. `dtype` is that of the text encoder and the transformer, by default bfloat16, on a CPU float32; the
    VAE is always in float32. The generation's latents are those that become video, without padding.

    Raises RequestError for an argument that cannot be served, CheckpointError for a checkpoint that we cannot
    run.
    """
    if fps < 1:
        raise RequestError("fps", f"{fps} is too few; give 1 or more")
    if out is not None:
        video_writer(out, request.num_frames)
    chosen = choose_devices(devices)
    dtype = choose_dtype(dtype, chosen[0].platform)
    source = Checkpoint(checkpoint)
    config = source.config("transformer")
    check_transformer(config)
    solves = scheduler.build_scheduler(
        source.config("scheduler", "scheduler_config.json"), request.num_inference_steps
    )
    rotary = rotary_embedding(config, request.latent_shape, MAX_TOKENS)
    widths = sharding.widths(config, source.config("text_encoder"))
    mesh = make_mesh(chosen, branches=request.branches, widths=widths)
    with started_run(PIPELINE, request, source, chosen) as run:
        job = Job(source, mesh, dtype, run)
        embeddings = encode_prompts(job, [request.prompt, request.negative_prompt][: request.branches])
        latents = denoise(job, request, solves, embeddings, rotary)
        frames = decode_latents(job, latents, request.padding_frames)
        if out is not None:
            with run.stage(StageName.SAVE):
                write_video(frames, out, fps)
                run.output = str(out)
    return Generation(frames, np.array(latents)[:, request.padding_frames :], run.report)


def encode_prompts(job: Job, prompts: list[str]) -> jax.Array:
    """Embeddings `[prompts, 226, width]`, split over the guidance branches."""
    encoder, weights = job.load("text_encoder", build_text_encoder, sharding.TEXT_ENCODER)
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint.folder("tokenizer"))
    config = job.checkpoint.config("text_encoder")
    with job.run.stage(
        StageName.TEXT_ENCODE,
        steps=1,
        flops_per_step=flops.text_encoder_flops(config, len(prompts), MAX_TOKENS),
        flops_method="architecture",
    ) as stage:
        program = jax.jit(
            partial(encode, encoder), out_shardings=(sharding.branches(job.mesh), job.everywhere)
        )
        embeddings: jax.Array
        embeddings, finite = with_room(program, weights, tokenize(prompts, tokenizer))
        stage.step(finite)
    return embeddings


def denoise(
    job: Job,
    request: CogVideoXRequest,
    solves: scheduler.Scheduler,
    embeddings: jax.Array,
    rotary: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> jax.Array:
    """The final latents `[1, frames, channels, height, width]`, replicated; padding frames come first."""
    model, weights = job.load("transformer", partial(build_transformer, mesh=job.mesh), sharding.TRANSFORMER)
    with job.run.stage(StageName.DENOISE, steps=len(solves.timesteps), **_step_cost(job, request)) as stage:
        schedule = scheduler.tabulate(solves, request, job.everywhere)
        tables = jax.device_put(rotary, job.everywhere)
        generator = torch.Generator().manual_seed(request.seed)
        noise = randn_tensor(request.latent_shape, generator=generator, dtype=torch.float32).numpy()
        solver = scheduler.start(noise, job.everywhere)
        step = jax.jit(
            make_step(model, job.mesh, jnp.dtype(job.dtype)), donate_argnums=2, out_shardings=job.everywhere
        )
        compiled = None
        for noise in scheduler.noises(solves, request.latent_shape, generator):
            arguments = weights, schedule, solver, embeddings, tables, jax.device_put(noise, job.everywhere)
            compiled = compiled or with_room(step.lower(*arguments).compile)
            solver, finite = with_room(compiled, *arguments)
            stage.step(finite)
    return solver.sample


def decode_latents(job: Job, latents: jax.Array, padding_frames: int) -> NDArray[np.float32]:
    """The video frames `[frames, height, width, 3]` in 0..1, on the host."""
    decoder, weights = job.load("vae", build_decoder, sharding.VAE, dtype="float32")
    config = job.checkpoint.config("vae")
    count, _, height, width = latents.shape[1:]
    costs = [flops.vae_turn_flops(config, turn, height, width) for turn in turns(count - padding_frames)]
    with job.run.stage(
        StageName.VAE_DECODE, steps=len(costs), flops_per_step=costs[-1], flops_method="architecture"
    ) as stage:
        chunks = []
        decoded = decode_turns(decoder, weights, latents, padding_frames, job.mesh)
        for cost, (frames, finite) in zip(costs, decoded, strict=True):
            frames.copy_to_host_async()
            chunks.append(frames)
            stage.step(finite, flops=cost)
        return np.concatenate([np.asarray(frames) for frames in chunks])


def _step_cost(job: Job, request: CogVideoXRequest) -> dict[str, Any]:
    """What one denoising step must compute and move, both branches together, for the stage's report."""
    config = job.checkpoint.config("transformer")
    _, frames, channels, height, width = request.latent_shape
    groups = job.mesh.shape[DATA]  # each group of devices reads all the weights for its share of the branches
    share = (request.branches // groups, frames, channels, height, width)
    moved = flops.transformer_forward_bytes(config, share, MAX_TOKENS, jnp.dtype(job.dtype).itemsize)
    both = (request.branches, frames, channels, height, width)
    return {
        "flops_per_step": flops.transformer_forward_flops(config, both, MAX_TOKENS),
        "flops_method": "architecture",
        "bytes_per_step": groups * moved,
    }
