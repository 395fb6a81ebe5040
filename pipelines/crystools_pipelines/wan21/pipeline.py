"""Wan2.1 text-to-video: a prompt and a diffusers checkpoint to frames, every stage and step reported."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray
from transformers import AutoTokenizer

from crystools_pipelines.runtime import multistep
from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.compile_cache import default_compile_cache
from crystools_pipelines.runtime.errors import CheckpointError, RequestError
from crystools_pipelines.runtime.mesh import DATA, make_mesh, replicated
from crystools_pipelines.runtime.video import video_writer, write_video
from crystools_pipelines.runtime.weights import load_state
from crystools_pipelines.wan21 import flops, sharding
from crystools_pipelines.wan21.request import Wan21Request
from crystools_pipelines.wan21.text import MAX_TOKENS, build_text_encoder, encode, tokenize
from crystools_pipelines.wan21.transformer import build_transformer, make_step
from crystools_pipelines.wan21.vae import build_decoder, decode_frames
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunReport, StageName

__all__ = ["PIPELINE", "Generation", "Wan21Request", "generate"]

PIPELINE = "wan2.1-t2v"
DTYPES = ("bfloat16", "float32")


@dataclass(frozen=True)
class Generation:
    """A finished video: `frames` float32 `[frames, height, width, 3]` in 0..1; `latents` float32
    `[1, 16, latent frames, height / 8, width / 8]` as the last denoising step left them; the run's report."""

    frames: NDArray[np.float32]
    latents: NDArray[np.float32]
    report: RunReport


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
    chosen = _choose_devices(devices)
    job = _Job(
        request,
        Checkpoint(checkpoint),
        chosen,
        _choose_dtype(dtype, chosen[0].platform),
    )
    with (
        default_compile_cache(),
        telemetry.run(
            PIPELINE, model_id=str(checkpoint), params=dataclasses.asdict(request), devices=chosen
        ) as run,
    ):
        embeddings = _encode_prompts(job, run)
        latents = _denoise(job, run, embeddings)
        frames = _decode(job, run, latents)
        if out is not None:
            with run.stage(StageName.SAVE):
                write_video(frames, out, fps)
                run.output = str(out)
    return Generation(frames, np.array(latents), run.report)


class _Job:
    """What all stages share: the request, where the weights are, and the mesh they go to."""

    def __init__(
        self, request: Wan21Request, checkpoint: Checkpoint, devices: list[jax.Device], dtype: str
    ) -> None:
        self.request = request
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.branches = 2 if request.guided else 1
        widths = sharding.widths(checkpoint.config("transformer"), checkpoint.config("text_encoder"))
        self.mesh: Mesh = make_mesh(devices, branches=self.branches, widths=widths)
        self.everywhere: NamedSharding = replicated(self.mesh)


def _encode_prompts(job: _Job, run: telemetry.Run) -> jax.Array:
    """Embeddings `[branches, 512, width]`, the prompt's first."""
    request = job.request
    prompts = [request.prompt, request.negative_prompt][: job.branches]
    with run.stage(StageName.LOAD, component="text_encoder"):
        tokenizer = AutoTokenizer.from_pretrained(job.checkpoint.folder("tokenizer"))
        folder = job.checkpoint.weights("text_encoder")
        encoder = build_text_encoder(folder)
        weights = load_state(encoder, folder, mesh=job.mesh, rules=sharding.TEXT_ENCODER, dtype=job.dtype)
    with run.stage(
        StageName.TEXT_ENCODE,
        steps=1,
        flops_per_step=flops.text_encoder_flops(
            job.checkpoint.config("text_encoder"), job.branches, MAX_TOKENS
        ),
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


def _denoise(job: _Job, run: telemetry.Run, embeddings: jax.Array) -> jax.Array:
    """The final latents, replicated."""
    request = job.request
    with run.stage(StageName.LOAD, component="transformer"):
        folder = job.checkpoint.weights("transformer")
        model = build_transformer(folder, job.mesh)
        weights = load_state(
            model,
            folder,
            mesh=job.mesh,
            rules=sharding.TRANSFORMER,
            dtype=job.dtype,
            float32=model._keep_in_fp32_modules,
        )
        scheduler = _load_scheduler(job)
    with run.stage(StageName.DENOISE, steps=request.num_inference_steps, **_step_cost(job)) as stage:
        schedule = multistep.tabulate(scheduler, request.num_inference_steps, job.everywhere)
        solver = multistep.start(schedule, _initial_noise(request), job.everywhere)
        guidance = jax.device_put(np.float32(request.guidance_scale), job.everywhere)
        step = jax.jit(
            make_step(model, job.mesh, jnp.dtype(job.dtype)), donate_argnums=2, out_shardings=job.everywhere
        )
        compiled = step.lower(weights, schedule, solver, embeddings, guidance).compile()
        for _ in range(request.num_inference_steps):
            solver, finite = compiled(weights, schedule, solver, embeddings, guidance)
            stage.step(finite)
    return solver.sample


def _decode(job: _Job, run: telemetry.Run, latents: jax.Array) -> NDArray[np.float32]:
    """The video frames, on the host."""
    with run.stage(StageName.LOAD, component="vae"):
        folder = job.checkpoint.weights("vae")
        decoder = build_decoder(folder)
        weights = load_state(decoder, folder, mesh=job.mesh, rules=sharding.VAE, dtype="float32")
    config = job.checkpoint.config("vae")
    batch, channels, count, height, width = latents.shape
    first, two = (flops.vae_decode_flops(config, (batch, channels, n, height, width)) for n in (1, 2))
    with run.stage(
        StageName.VAE_DECODE, steps=count, flops_per_step=two - first, flops_method="architecture"
    ) as stage:
        chunks = []
        for index, (frames, finite) in enumerate(decode_frames(decoder, weights, latents, job.mesh)):
            frames.copy_to_host_async()
            chunks.append(frames)
            stage.step(finite, flops=first if index == 0 else None)
        return np.concatenate([np.asarray(frames) for frames in chunks])


def _step_cost(job: _Job) -> dict[str, Any]:
    """What one denoising step must compute and move, both branches together, for the stage's report."""
    config = job.checkpoint.config("transformer")
    _, channels, frames, height, width = job.request.latent_shape
    groups = job.mesh.shape[DATA]  # each group of devices reads all the weights for its share of the branches
    share = (job.branches // groups, channels, frames, height, width)
    moved = flops.transformer_forward_bytes(config, share, MAX_TOKENS, jnp.dtype(job.dtype).itemsize)
    both = (job.branches, channels, frames, height, width)
    return {
        "flops_per_step": flops.transformer_forward_flops(config, both, MAX_TOKENS),
        "flops_method": "architecture",
        "bytes_per_step": groups * moved,
    }


def _load_scheduler(job: _Job) -> UniPCMultistepScheduler:
    config = job.checkpoint.config("scheduler", "scheduler_config.json")
    if config["_class_name"] != UniPCMultistepScheduler.__name__:
        raise CheckpointError(
            f"the scheduler is {config['_class_name']}; give a checkpoint with UniPCMultistepScheduler"
        )
    return UniPCMultistepScheduler.from_config(config, flow_shift=job.request.flow_shift)


def _initial_noise(request: Wan21Request) -> NDArray[np.float32]:
    """What diffusers' WanPipeline draws for `torch.Generator().manual_seed(seed)`."""
    generator = torch.Generator().manual_seed(request.seed)
    noise = randn_tensor(request.latent_shape, generator=generator, dtype=torch.float32)
    return noise.numpy()  # type: ignore[no-any-return]


def _choose_devices(count: int) -> list[jax.Device]:
    available = jax.devices()
    if not 0 <= count <= len(available):
        raise RequestError("devices", f"{count} is out of range; give 1 to {len(available)}, or 0 for all")
    return available[: count or None]


def _choose_dtype(dtype: str | None, platform: str) -> str:
    if dtype is None:
        return "float32" if platform == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise RequestError("dtype", f"{dtype!r} is not supported; give one of {', '.join(DTYPES)}")
    return dtype
