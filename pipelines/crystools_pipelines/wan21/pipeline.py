"""Wan2.1 text-to-video: a prompt and a diffusers checkpoint to frames, every stage and step reported."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from diffusers import UniPCMultistepScheduler
from numpy.typing import NDArray
from transformers import AutoTokenizer

from crystools_pipelines.runtime import multistep
from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.errors import CheckpointError, RequestError
from crystools_pipelines.runtime.job import (
    Generation,
    Job,
    choose_devices,
    choose_dtype,
    initial_noise,
    started_run,
)
from crystools_pipelines.runtime.mesh import DATA, make_mesh
from crystools_pipelines.runtime.video import video_writer, write_video
from crystools_pipelines.wan21 import flops, sharding
from crystools_pipelines.wan21.request import Wan21Request
from crystools_pipelines.wan21.text import MAX_TOKENS, build_text_encoder, encode, tokenize
from crystools_pipelines.wan21.transformer import build_transformer, make_step
from crystools_pipelines.wan21.vae import build_decoder, decode_frames
from crystools_tpu.telemetry import StageName

__all__ = ["PIPELINE", "Generation", "Wan21Request", "generate"]

PIPELINE = "wan2.1-t2v"


def generate(
    request: Wan21Request,
    *,
    checkpoint: str | Path,
    devices: int = 0,
    dtype: str | None = None,
    fps: int = 16,
    out: Path | None = None,
) -> Generation:
    """Generates one video and, if `out` is given, writes it there: `.mp4`, or `.npy` for the bare frames.

    `checkpoint` is a folder in diffusers' format or a hub id. `devices` is how many jax devices to use, 0 for
    all. `dtype` is that of the text encoder and the transformer, by default bfloat16, on a CPU float32; what
    the transformer keeps in float32 stays so, and the VAE is always in float32.

    Raises RequestError for an argument that cannot be served, CheckpointError for a checkpoint that we cannot
    run.
    """
    if fps < 1:
        raise RequestError("fps", f"{fps} is too few; give 1 or more")
    if out is not None:
        video_writer(out)
    chosen = choose_devices(devices)
    dtype = choose_dtype(dtype, chosen[0].platform)
    source = Checkpoint(checkpoint)
    widths = sharding.widths(source.config("transformer"), source.config("text_encoder"))
    mesh = make_mesh(chosen, branches=request.branches, widths=widths)
    with started_run(PIPELINE, request, source, chosen) as run:
        job = Job(source, mesh, dtype, run)
        embeddings = encode_prompts(job, [request.prompt, request.negative_prompt][: request.branches])
        latents = _denoise(job, request, embeddings)
        frames = decode_latents(job, latents)
        if out is not None:
            with run.stage(StageName.SAVE):
                write_video(frames, out, fps)
                run.output = str(out)
    return Generation(frames, np.array(latents), run.report)


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
        embeddings, finite = program(weights, ids, mask)
        stage.step(finite)
    return embeddings


def _denoise(job: Job, request: Wan21Request, embeddings: jax.Array) -> jax.Array:
    """The final latents, replicated."""
    model, weights = job.load("transformer", partial(build_transformer, mesh=job.mesh), sharding.TRANSFORMER)
    scheduler = load_scheduler(job, request.flow_shift)
    with job.run.stage(
        StageName.DENOISE, steps=request.num_inference_steps, **_step_cost(job, request)
    ) as stage:
        schedule = multistep.tabulate(scheduler, request.num_inference_steps, job.everywhere)
        noise = initial_noise(request.latent_shape, request.seed)
        solver = multistep.start(schedule, noise, job.everywhere)
        guidance = jax.device_put(np.float32(request.guidance_scale), job.everywhere)
        step = jax.jit(
            make_step(model, job.mesh, jnp.dtype(job.dtype)), donate_argnums=2, out_shardings=job.everywhere
        )
        compiled = step.lower(weights, schedule, solver, embeddings, guidance).compile()
        for _ in range(request.num_inference_steps):
            solver, finite = compiled(weights, schedule, solver, embeddings, guidance)
            stage.step(finite)
    return solver.sample


def decode_latents(job: Job, latents: jax.Array) -> NDArray[np.float32]:
    """The video frames `[frames, height, width, 3]` in 0..1, on the host."""
    decoder, weights = job.load("vae", build_decoder, sharding.VAE, dtype="float32")
    config = job.checkpoint.config("vae")
    batch, channels, count, height, width = latents.shape
    first, two = (flops.vae_decode_flops(config, (batch, channels, n, height, width)) for n in (1, 2))
    with job.run.stage(
        StageName.VAE_DECODE, steps=count, flops_per_step=two - first, flops_method="architecture"
    ) as stage:
        chunks = []
        for index, (frames, finite) in enumerate(decode_frames(decoder, weights, latents, job.mesh)):
            frames.copy_to_host_async()
            chunks.append(frames)
            stage.step(finite, flops=first if index == 0 else None)
        return np.concatenate([np.asarray(frames) for frames in chunks])


def _step_cost(job: Job, request: Wan21Request) -> dict[str, Any]:
    """What one denoising step must compute and move, both branches together, for the stage's report."""
    config = job.checkpoint.config("transformer")
    _, channels, frames, height, width = request.latent_shape
    groups = job.mesh.shape[DATA]  # each group of devices reads all the weights for its share of the branches
    share = (request.branches // groups, channels, frames, height, width)
    moved = flops.transformer_forward_bytes(config, share, MAX_TOKENS, jnp.dtype(job.dtype).itemsize)
    both = (request.branches, channels, frames, height, width)
    return {
        "flops_per_step": flops.transformer_forward_flops(config, both, MAX_TOKENS),
        "flops_method": "architecture",
        "bytes_per_step": groups * moved,
    }


def load_scheduler(job: Job, flow_shift: float) -> UniPCMultistepScheduler:
    """The checkpoint's scheduler with this `flow_shift`. Raises CheckpointError where it is another."""
    config = job.checkpoint.config("scheduler", "scheduler_config.json")
    if config["_class_name"] != UniPCMultistepScheduler.__name__:
        raise CheckpointError(
            f"the scheduler is {config['_class_name']}; give a checkpoint with UniPCMultistepScheduler"
        )
    return UniPCMultistepScheduler.from_config(config, flow_shift=flow_shift)
