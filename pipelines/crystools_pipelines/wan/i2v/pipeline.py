"""Wan2.2 image-to-video: an image, a prompt and a diffusers checkpoint to frames, every stage reported."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from diffusers import UniPCMultistepScheduler
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.parallel import layout
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
from crystools_pipelines.runtime.stages import run_turns
from crystools_pipelines.wan.i2v import sharding
from crystools_pipelines.wan.i2v.encoder import build_encoder, encoding_turns
from crystools_pipelines.wan.i2v.image import read_image
from crystools_pipelines.wan.i2v.request import Wan22I2VRequest
from crystools_pipelines.wan.request import VAE_TEMPORAL_RATIO
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
from crystools_pipelines.weights.inspection import check_all_heeded, check_classes
from crystools_pipelines.weights.part import Part
from crystools_tpu.telemetry import StageName

__all__ = ["PIPELINE", "Generation", "Wan22I2VRequest", "generate"]

PIPELINE = "wan2.2-i2v"

ENCODER = Part(
    "vae", build_encoder, sharding.VAE_ENCODER, (r"(decoder|post_quant_conv)\..*",), dtype="float32"
)


def generate(
    request: Wan22I2VRequest,
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
    all; `mesh` is how they share the work. `dtype` is that of the text encoder and the transformers, by
    default bfloat16, on a CPU float32; what the transformers keep in float32 stays so, and the VAE is always
    in float32.

    Raises RequestError for an argument that cannot be served, CheckpointError for a checkpoint that we cannot
    run.
    """
    check_output(out, request, fps)
    source = Checkpoint(checkpoint)
    prepared = prepare(request, source)
    placed = make_mesh(request, source, choose_devices(devices), mesh)
    forecast = kept_forecast(PIPELINE, request, source, placed, dtype)
    transformers = [transformer(placed, phase.component) for phase in prepared.phases]
    parts = [text_encoder(placed), ENCODER, *transformers, DECODER]
    with started_job(
        PIPELINE, params_of(request), source, placed, dtype, parts=parts, forecast=forecast
    ) as job:
        latents, frames = run_stages(job, request, prepared)
        job.save(frames, out, fps)
    return Generation(frames, np.array(latents), job.run.report)


class Prepared(NamedTuple):
    """What a request needs beside the checkpoint's weights."""

    image: NDArray[np.float32]
    scheduler: UniPCMultistepScheduler
    phases: list[Phase]


def make_mesh(
    request: Wan22I2VRequest,
    checkpoint: Checkpoint,
    devices: Sequence[jax.Device],
    shape: MeshShape | None = None,
) -> Mesh:
    """The devices as this request's stages use them.

    Raises RequestError for a shape that cannot be, CheckpointError for a checkpoint that we cannot run.
    """
    check_checkpoint(PIPELINE, checkpoint)
    return mesh_over(PIPELINE, devices, checkpoint, request.branches, shape)


def legal_meshes(request: Wan22I2VRequest, checkpoint: Checkpoint, devices: int) -> list[MeshShape]:
    """The shapes that `make_mesh` takes for so many devices."""
    return legal_shapes(devices, branches=request.branches, widths=widths(checkpoint))


def prepare(request: Wan22I2VRequest, checkpoint: Checkpoint) -> Prepared:
    """The image read, the scheduler, and the transformers' shares of the steps.

    Raises RequestError for an image that is none, CheckpointError for a checkpoint that we cannot run.
    """
    image = read_image(request.image, request.height, request.width)
    check_all_heeded(PIPELINE, checkpoint)
    check_classes(PIPELINE, checkpoint, ["transformer"])
    scheduler = load_scheduler(checkpoint, request.shift)
    return Prepared(image, scheduler, plan_phases(request, checkpoint, scheduler))


def run_stages(
    job: Job, request: Wan22I2VRequest, prepared: Prepared
) -> tuple[jax.Array, NDArray[np.float32]]:
    """The final latents, and the video's frames `[frames, height, width, 3]` in 0..1."""
    embeddings = encode_prompts(job, [request.prompt, request.negative_prompt][: request.branches])
    condition = encode_image(job, request.latent_shape, prepared.image)
    latents = denoise(job, request, prepared.scheduler, prepared.phases, embeddings, condition)
    return latents, decode_latents(job, latents)


def plan_phases(
    request: Wan22I2VRequest, checkpoint: Checkpoint, scheduler: UniPCMultistepScheduler
) -> list[Phase]:
    """Which transformer takes how many steps, the noisy ones first; one without steps is left out.

    Raises CheckpointError for a checkpoint that is not of this model.
    """
    index = checkpoint.index()
    if index.get("expand_timesteps"):
        raise CheckpointError(f"{checkpoint.location} is Wan2.2 5B; give a checkpoint of Wan2.2-I2V-A14B")
    ratio = index.get("boundary_ratio") if request.boundary_ratio is None else request.boundary_ratio
    if ratio is None and request.guidance_scale_2 is not None:
        raise RequestError("guidance_scale_2", "the checkpoint has no boundary; give a boundary_ratio too")
    steps = request.num_inference_steps
    scheduler.set_timesteps(steps)
    boundary = (ratio or 0) * scheduler.config.num_train_timesteps
    noisy = int((scheduler.timesteps >= boundary).sum())
    scale_2 = request.guidance_scale if request.guidance_scale_2 is None else request.guidance_scale_2
    both = Phase("transformer", noisy, request.guidance_scale), Phase("transformer_2", steps - noisy, scale_2)
    phases = [phase for phase in both if phase.steps]
    for phase in phases:
        check_transformer(PIPELINE, checkpoint, phase.component)
    return phases


def encode_image(
    job: Job, latent_shape: tuple[int, int, int, int, int], image: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The image as the transformers see it beside the latents: `[1, 20, frames, height, width]`, on the host.

    The mask, 1 where a frame is given, then the latents of the image and of the blank frames after it.
    """
    encoder = job.load(ENCODER)
    batch, _, count, height, width = latent_shape
    split = layout.pixels(job.mesh, latent_shape)
    latents = run_turns(
        job,
        StageName.VAE_ENCODE,
        encoder,
        job.put(image, split),
        encoding_turns(encoder.module, job.checkpoint.config("vae"), latent_shape),
        sharding=job.everywhere,
        cache_sharding=split,
        axis=2,
    )
    mask = np.zeros((batch, VAE_TEMPORAL_RATIO, count, height, width), np.float32)
    mask[:, :, 0] = 1
    return np.concatenate([mask, latents], axis=1)
