"""Wan2.1 text-to-video: a prompt and a diffusers checkpoint to frames, every stage and step reported."""

from pathlib import Path

import numpy as np

from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.errors import RequestError
from crystools_pipelines.runtime.job import Generation, Job, choose_devices, choose_dtype, started_run
from crystools_pipelines.runtime.mesh import make_mesh
from crystools_pipelines.runtime.video import video_writer, write_video
from crystools_pipelines.wan21 import sharding
from crystools_pipelines.wan21.request import Wan21Request
from crystools_pipelines.wan21.stages import Phase, decode_latents, denoise, encode_prompts, load_scheduler
from crystools_pipelines.wan21.transformer import check_transformer
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
        video_writer(out, request.num_frames)
    chosen = choose_devices(devices)
    dtype = choose_dtype(dtype, chosen[0].platform)
    source = Checkpoint(checkpoint)
    check_transformer(source.config("transformer"), condition_channels=0)
    scheduler = load_scheduler(source, request.flow_shift)
    widths = sharding.widths(source.config("transformer"), source.config("text_encoder"))
    mesh = make_mesh(chosen, branches=request.branches, widths=widths)
    with started_run(PIPELINE, request, source, chosen) as run:
        job = Job(source, mesh, dtype, run)
        embeddings = encode_prompts(job, [request.prompt, request.negative_prompt][: request.branches])
        phase = Phase("transformer", request.num_inference_steps, request.guidance_scale)
        latents = denoise(job, request, scheduler, [phase], embeddings)
        frames = decode_latents(job, latents)
        if out is not None:
            with run.stage(StageName.SAVE):
                write_video(frames, out, fps)
                run.output = str(out)
    return Generation(frames, np.array(latents), run.report)
