"""Wan2.2 image-to-video: an image, a prompt and a diffusers checkpoint to frames, every stage reported."""

from pathlib import Path

import jax
import numpy as np
from diffusers import UniPCMultistepScheduler
from numpy.typing import NDArray

from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.errors import CheckpointError, RequestError
from crystools_pipelines.runtime.job import Generation, Job, choose_devices, choose_dtype, started_run
from crystools_pipelines.runtime.mesh import make_mesh
from crystools_pipelines.runtime.video import video_writer, write_video
from crystools_pipelines.wan21 import sharding as wan_sharding
from crystools_pipelines.wan21.request import LATENT_CHANNELS, VAE_TEMPORAL_RATIO
from crystools_pipelines.wan21.stages import (
    Phase,
    decode_latents,
    denoise,
    encode_prompts,
    load_scheduler,
    vae_stage,
)
from crystools_pipelines.wan21.transformer import check_transformer
from crystools_pipelines.wan22_i2v import flops, sharding
from crystools_pipelines.wan22_i2v.image import read_image
from crystools_pipelines.wan22_i2v.request import Wan22I2VRequest
from crystools_pipelines.wan22_i2v.vae import build_encoder, encode_frames
from crystools_tpu.telemetry import StageName

__all__ = ["PIPELINE", "Generation", "Wan22I2VRequest", "generate"]

PIPELINE = "wan2.2-i2v"

# The mask has a channel for each video frame of a latent one.
CONDITION_CHANNELS = VAE_TEMPORAL_RATIO + LATENT_CHANNELS


def generate(
    request: Wan22I2VRequest,
    *,
    checkpoint: str | Path,
    devices: int = 0,
    dtype: str | None = None,
    fps: int = 16,
    out: Path | None = None,
) -> Generation:
    """Generates one video and, if `out` is given, writes it there: `.mp4`, or `.npy` for the bare frames.

    `checkpoint` is a folder in diffusers' format or a hub id. `devices` is how many jax devices to use, 0 for
    all. `dtype` is that of the text encoder and the transformers, by default bfloat16, on a CPU float32; what
    the transformers keep in float32 stays so, and the VAE is always in float32.

    Raises RequestError for an argument that cannot be served, CheckpointError for a checkpoint that we cannot
    run.
    """
    if fps < 1:
        raise RequestError("fps", f"{fps} is too few; give 1 or more")
    if out is not None:
        video_writer(out, request.num_frames)
    image = read_image(request.image, request.height, request.width)
    chosen = choose_devices(devices)
    dtype = choose_dtype(dtype, chosen[0].platform)
    source = Checkpoint(checkpoint)
    scheduler = load_scheduler(source, request.shift)
    phases = plan_phases(request, source, scheduler)
    config = source.config(phases[0].component)
    widths = wan_sharding.widths(config, source.config("text_encoder"))
    mesh = make_mesh(chosen, branches=request.branches, widths=widths)
    with started_run(PIPELINE, request, source, chosen) as run:
        job = Job(source, mesh, dtype, run)
        embeddings = encode_prompts(job, [request.prompt, request.negative_prompt][: request.branches])
        condition = encode_image(job, request, image)
        latents = denoise(job, request, scheduler, phases, embeddings, condition)
        frames = decode_latents(job, latents)
        if out is not None:
            with run.stage(StageName.SAVE):
                write_video(frames, out, fps)
                run.output = str(out)
    return Generation(frames, np.array(latents), run.report)


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
        check_transformer(checkpoint.config(phase.component), CONDITION_CHANNELS)
    return phases


def encode_image(job: Job, request: Wan22I2VRequest, image: NDArray[np.float32]) -> jax.Array:
    """The image as the transformers see it beside the latents: `[1, 20, frames, height, width]`, replicated.

    The mask, 1 where a frame is given, then the latents of the image and of the blank frames after it.
    """
    encoder, weights = job.load("vae", build_encoder, sharding.VAE_ENCODER, dtype="float32")
    config = job.checkpoint.config("vae")
    batch, channels, count, height, width = request.latent_shape

    def cost(frames: int) -> float:
        return flops.vae_encode_flops(config, (batch, channels, frames, height, width))

    outputs = encode_frames(encoder, weights, image, count, job.mesh)
    latents = vae_stage(job, StageName.VAE_ENCODE, count, cost, outputs, axis=2)
    mask = np.zeros((batch, VAE_TEMPORAL_RATIO, count, height, width), np.float32)
    mask[:, :, 0] = 1
    condition: jax.Array = jax.device_put(np.concatenate([mask, latents], axis=1), job.everywhere)
    return condition
