"""Wan2.1 text-to-video: a prompt and a diffusers checkpoint to frames, every stage and step reported."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from diffusers import UniPCMultistepScheduler
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.parallel.mesh_shape import MeshShape, legal_shapes
from crystools_pipelines.planning.forecasting import kept_forecast
from crystools_pipelines.runtime.job import (
    Generation,
    Job,
    check_output,
    choose_devices,
    params_of,
    started_job,
)
from crystools_pipelines.wan.request import Wan21Request
from crystools_pipelines.wan.stages import (
    DECODER,
    Phase,
    check_checkpoint,
    check_transformer,
    decode_latents,
    denoise,
    encode_prompts,
    load_scheduler,
    mesh_over,
    text_encoder,
    transformer,
    widths,
)
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import check_all_heeded

__all__ = ["PIPELINE", "Generation", "Wan21Request", "generate"]

PIPELINE = "wan2.1-t2v"


def generate(
    request: Wan21Request,
    *,
    checkpoint: str | Path,
    devices: int = 0,
    mesh: MeshShape | None = None,
    dtype: str | None = None,
    fps: int = 16,
    out: Path | None = None,
) -> Generation:
    """Generates one video and, if `out` is given, writes it there: `.mp4`, or `.npy` for the bare frames.

    `checkpoint` is a folder in diffusers' format or a hub id. `devices` is how many jax devices to use, 0 for
    all; `mesh` is how they share the work. `dtype` is that of the text encoder and the transformer, by
    default bfloat16, on a CPU float32; what the transformer keeps in float32 stays so, and the VAE is always
    in float32.

    Raises RequestError for an argument that cannot be served, CheckpointError for a checkpoint that we cannot
    run.
    """
    check_output(out, request, fps)
    source = Checkpoint(checkpoint)
    placed = make_mesh(request, source, choose_devices(devices), mesh)
    scheduler = prepare(request, source)
    forecast = kept_forecast(PIPELINE, request, source, placed, dtype)
    parts = [text_encoder(placed), transformer(placed, "transformer"), DECODER]
    with started_job(
        PIPELINE, params_of(request), source, placed, dtype, parts=parts, forecast=forecast
    ) as job:
        latents, frames = run_stages(job, request, scheduler)
        job.save(frames, out, fps)
    return Generation(frames, np.array(latents), job.run.report)


def make_mesh(
    request: Wan21Request,
    checkpoint: Checkpoint,
    devices: Sequence[jax.Device],
    shape: MeshShape | None = None,
) -> Mesh:
    """The devices as this request's stages use them.

    Raises RequestError for a shape that cannot be, CheckpointError for a checkpoint that we cannot run.
    """
    check_checkpoint(PIPELINE, checkpoint)
    return mesh_over(PIPELINE, devices, checkpoint, request.branches, shape)


def legal_meshes(request: Wan21Request, checkpoint: Checkpoint, devices: int) -> list[MeshShape]:
    """The shapes that `make_mesh` takes for so many devices."""
    return legal_shapes(devices, branches=request.branches, widths=widths(checkpoint))


def prepare(request: Wan21Request, checkpoint: Checkpoint) -> UniPCMultistepScheduler:
    """The scheduler for this request. Raises CheckpointError for a checkpoint that we cannot run."""
    check_all_heeded(PIPELINE, checkpoint)
    check_transformer(PIPELINE, checkpoint, "transformer")
    return load_scheduler(checkpoint, request.flow_shift)


def run_stages(
    job: Job, request: Wan21Request, scheduler: UniPCMultistepScheduler
) -> tuple[jax.Array, NDArray[np.float32]]:
    """The final latents, and the video's frames `[frames, height, width, 3]` in 0..1."""
    embeddings = encode_prompts(job, [request.prompt, request.negative_prompt][: request.branches])
    phase = Phase("transformer", request.num_inference_steps, request.guidance_scale)
    latents = denoise(job, request, scheduler, [phase], embeddings)
    return latents, decode_latents(job, latents)
