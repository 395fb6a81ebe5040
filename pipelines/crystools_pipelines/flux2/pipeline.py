"""FLUX.2 text-to-image: a prompt and a diffusers checkpoint to an image, every stage and step reported."""

from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from transformers import AutoTokenizer

from crystools_pipelines.flux2 import flops, sharding
from crystools_pipelines.flux2.request import TOKEN_CHANNELS, Flux2Request
from crystools_pipelines.flux2.schedule import SolverState, tabulate
from crystools_pipelines.flux2.text import (
    LAYERS,
    MAX_TOKENS,
    build_prompt_encoder,
    check_text_encoder,
    encode,
    tokenize,
)
from crystools_pipelines.flux2.transformer import build_transformer, make_step, rotary_tables
from crystools_pipelines.flux2.vae import build_decoder, decode
from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.errors import CheckpointError
from crystools_pipelines.runtime.job import (
    Generation,
    Job,
    choose_devices,
    choose_dtype,
    initial_noise,
    started_run,
)
from crystools_pipelines.runtime.mesh import make_mesh
from crystools_pipelines.runtime.out_of_memory import with_room
from crystools_pipelines.runtime.video import video_writer, write_video
from crystools_tpu.telemetry import StageName

__all__ = ["PIPELINE", "Flux2Request", "Generation", "generate"]

PIPELINE = "flux.2"


def generate(
    request: Flux2Request,
    *,
    checkpoint: str | Path,
    devices: int = 0,
    dtype: str | None = None,
    out: Path | None = None,
) -> Generation:
    """Generates one image and, if `out` is given, writes it there: `.png`, or `.npy` for the bare array.

    `checkpoint` is a folder in diffusers' format or a hub id. `devices` is how many jax devices to use, 0 for
    all. `dtype` is that of the text encoder and the transformer, by default bfloat16, on a CPU float32; the
    VAE is always in float32. The latents come back as the transformer sees them, `[1, tokens, 128]`.

    Raises RequestError for an argument that cannot be served, CheckpointError for a checkpoint that we cannot
    run.
    """
    if out is not None:
        video_writer(out)
    chosen = choose_devices(devices)
    dtype = choose_dtype(dtype, chosen[0].platform)
    source = Checkpoint(checkpoint)
    text_config = check_text_encoder(source.config("text_encoder"))
    scheduler = load_scheduler(source)
    mesh = make_mesh(chosen, branches=1, widths=sharding.widths(source.config("transformer"), text_config))
    with started_run(PIPELINE, request, source, chosen) as run:
        job = Job(source, mesh, dtype, run)
        embeddings = encode_prompt(job, request.prompt)
        latents = denoise(job, request, scheduler, embeddings)
        image = decode_latents(job, request.grid, latents)
        if out is not None:
            with run.stage(StageName.SAVE):
                write_video(image, out, fps=1)
                run.output = str(out)
    return Generation(image, np.array(latents), run.report)


def encode_prompt(job: Job, prompt: str) -> jax.Array:
    """Embeddings `[1, 512, 3 * width]`, on every device."""
    encoder, weights = job.load("text_encoder", build_prompt_encoder, sharding.TEXT_ENCODER)
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint.folder("tokenizer"))
    config = job.checkpoint.config("text_encoder")["text_config"]
    with job.run.stage(
        StageName.TEXT_ENCODE,
        steps=1,
        flops_per_step=flops.text_encoder_flops(config, MAX_TOKENS, LAYERS[-1]),
        flops_method="architecture",
    ) as stage:
        ids, mask = tokenize(prompt, tokenizer)
        program = jax.jit(partial(encode, encoder), out_shardings=job.everywhere)
        embeddings: jax.Array
        embeddings, finite = with_room(program, weights, ids, mask)
        stage.step(finite)
    return embeddings


def denoise(
    job: Job, request: Flux2Request, scheduler: FlowMatchEulerDiscreteScheduler, embeddings: jax.Array
) -> jax.Array:
    """The final latents, float32 `[1, tokens, 128]`, on every device."""
    model, weights = job.load("transformer", partial(build_transformer, mesh=job.mesh), sharding.TRANSFORMER)
    config = job.checkpoint.config("transformer")
    steps = request.num_inference_steps
    with job.run.stage(StageName.DENOISE, steps=steps, **_step_cost(job, config, request)) as stage:
        schedule = tabulate(scheduler, steps, prod(request.grid), job.everywhere)
        noise = initial_noise((1, TOKEN_CHANNELS, *request.grid), request.seed)
        packed = noise.reshape(1, TOKEN_CHANNELS, -1).swapaxes(1, 2)
        solver = SolverState(*jax.device_put((np.int32(0), packed), job.everywhere))
        tables = jax.device_put(rotary_tables(config, request.grid, MAX_TOKENS), job.everywhere)
        guidance = jax.device_put(np.float32(request.guidance_scale), job.everywhere)
        step = jax.jit(make_step(model, jnp.dtype(job.dtype)), donate_argnums=2, out_shardings=job.everywhere)
        lowered = step.lower(weights, schedule, solver, embeddings, tables, guidance)
        compiled = with_room(lowered.compile)
        for _ in range(steps):
            solver, finite = with_room(compiled, weights, schedule, solver, embeddings, tables, guidance)
            stage.step(finite)
    return solver.latents


def decode_latents(job: Job, grid: tuple[int, int], latents: jax.Array) -> NDArray[np.float32]:
    """The image `[1, height, width, 3]` in 0..1, on the host."""
    decoder, weights = job.load("vae", partial(build_decoder, mesh=job.mesh), sharding.VAE, dtype="float32")
    rows, columns = (2 * size for size in grid)
    with job.run.stage(
        StageName.VAE_DECODE,
        steps=1,
        flops_per_step=flops.vae_decode_flops(job.checkpoint.config("vae"), rows, columns),
        flops_method="architecture",
    ) as stage:
        split = sharding.image(sharding.pixels(job.mesh, *grid))
        program = jax.jit(partial(decode, decoder, job.mesh, grid), out_shardings=(split, job.everywhere))
        image, finite = with_room(program, weights, latents)
        stage.step(finite)
        return np.asarray(image)


def _step_cost(job: Job, config: dict[str, Any], request: Flux2Request) -> dict[str, Any]:
    """What one denoising step must compute and move, for the stage's report."""
    tokens = prod(request.grid)
    itemsize = jnp.dtype(job.dtype).itemsize
    return {
        "flops_per_step": flops.transformer_forward_flops(config, tokens, MAX_TOKENS),
        "flops_method": "architecture",
        "bytes_per_step": flops.transformer_forward_bytes(config, tokens, MAX_TOKENS, itemsize),
    }


def load_scheduler(checkpoint: Checkpoint) -> FlowMatchEulerDiscreteScheduler:
    """The checkpoint's scheduler. Raises CheckpointError where it is another."""
    config = checkpoint.config("scheduler", "scheduler_config.json")
    if config["_class_name"] != FlowMatchEulerDiscreteScheduler.__name__:
        raise CheckpointError(
            f"the scheduler is {config['_class_name']}; "
            "give a checkpoint with FlowMatchEulerDiscreteScheduler"
        )
    return FlowMatchEulerDiscreteScheduler.from_config(config)
