"""CogVideoX text-to-video: a prompt and a diffusers checkpoint to frames, every stage and step reported."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.utils.torch_utils import randn_tensor
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from crystools_pipelines.cogvideox import flops, scheduler, sharding
from crystools_pipelines.cogvideox.request import (
    LATENT_CHANNELS,
    VAE_SPATIAL_RATIO,
    VAE_TEMPORAL_RATIO,
    CogVideoXRequest,
)
from crystools_pipelines.cogvideox.text import (
    MAX_TOKENS,
    TextEncoder,
    build_text_encoder,
    encode,
    tokenize,
)
from crystools_pipelines.cogvideox.transformer import (
    build_transformer,
    check_transformer,
    predict,
    rotary_embedding,
)
from crystools_pipelines.cogvideox.vae import build_decoder, decoding_turns
from crystools_pipelines.parallel import layout
from crystools_pipelines.parallel.mesh import DATA
from crystools_pipelines.parallel.mesh import make_mesh as mesh_of
from crystools_pipelines.parallel.mesh_shape import MeshShape, legal_shapes
from crystools_pipelines.planning.forecasting import kept_forecast
from crystools_pipelines.runtime.denoising import denoising_step
from crystools_pipelines.runtime.job import (
    AnyArray,
    Generation,
    Job,
    check_output,
    choose_devices,
    params_of,
    started_job,
)
from crystools_pipelines.runtime.stages import Step, StepCost, run_denoising, run_once, run_turns
from crystools_pipelines.text import t5
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import (
    Size,
    check_all_heeded,
    check_classes,
    check_components,
    check_sizes,
)
from crystools_pipelines.weights.part import Part
from crystools_tpu.telemetry import StageName

__all__ = ["PIPELINE", "CogVideoXRequest", "Generation", "generate"]

PIPELINE = "cogvideox-t2v"

DECODER = Part("vae", build_decoder, sharding.VAE, (r"(encoder|quant_conv)\..*",), dtype="float32")


def generate(
    request: CogVideoXRequest,
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
    default bfloat16, on a CPU float32; the VAE is always in float32. The generation's latents are those that
    become video, without padding.

    Raises RequestError for an argument that cannot be served, CheckpointError for a checkpoint that we cannot
    run.
    """
    check_output(out, request, fps)
    source = Checkpoint(checkpoint)
    prepared = prepare(request, source)
    placed = make_mesh(request, source, choose_devices(devices), mesh)
    forecast = kept_forecast(PIPELINE, request, source, placed, dtype)
    parts = [text_encoder(placed), transformer(placed), DECODER]
    with started_job(
        PIPELINE, params_of(request), source, placed, dtype, parts=parts, forecast=forecast
    ) as job:
        latents, frames = run_stages(job, request, prepared)
        job.save(frames, out, fps)
    return Generation(frames, np.array(latents)[:, request.padding_frames :], job.run.report)


def text_encoder(mesh: Mesh) -> Part[TextEncoder]:
    """The text encoder on this mesh."""
    build = partial(build_text_encoder, mesh=mesh)
    return Part("text_encoder", build, t5.ENCODER, t5.LEFTOVERS, tokenized=True)


def transformer(mesh: Mesh) -> Part[CogVideoXTransformer3DModel]:
    """The transformer on this mesh."""
    return Part("transformer", partial(build_transformer, mesh=mesh), sharding.TRANSFORMER)


class Prepared(NamedTuple):
    """What a request needs beside the checkpoint's weights."""

    scheduler: scheduler.Scheduler
    rotary: tuple[NDArray[np.float32], NDArray[np.float32]]


def make_mesh(
    request: CogVideoXRequest,
    checkpoint: Checkpoint,
    devices: Sequence[jax.Device],
    shape: MeshShape | None = None,
) -> Mesh:
    """The devices as this request's stages use them.

    Raises RequestError for a shape that cannot be, CheckpointError for a checkpoint that we cannot run.
    """
    check_checkpoint(checkpoint)
    return mesh_over(devices, checkpoint, request.branches, shape)


def legal_meshes(request: CogVideoXRequest, checkpoint: Checkpoint, devices: int) -> list[MeshShape]:
    """The shapes that `make_mesh` takes for so many devices."""
    return legal_shapes(devices, branches=request.branches, widths=widths(checkpoint))


def mesh_over(
    devices: Sequence[jax.Device], checkpoint: Checkpoint, branches: int, shape: MeshShape | None = None
) -> Mesh:
    """The devices as the stages of a checkpoint use them, for so many guidance branches.

    Raises RequestError for a shape that cannot be, CheckpointError for a checkpoint that we cannot run.
    """
    check_classes(PIPELINE, checkpoint, ["transformer", "text_encoder", "vae"])
    return mesh_of(devices, branches=branches, widths=widths(checkpoint), model=PIPELINE, shape=shape)


def widths(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The sizes that a mesh's `tensor` splits."""
    configs = (checkpoint.config(component) for component in ("transformer", "text_encoder", "vae"))
    return sharding.widths(*configs)


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless the configurations are of a checkpoint that can be run whole."""
    check_components(PIPELINE, checkpoint)
    check_vae(checkpoint)
    check_denoiser(checkpoint)


def check_denoiser(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless the transformer takes and gives what the model's does."""
    check_classes(PIPELINE, checkpoint, ["transformer", "text_encoder"])
    config, encoder = checkpoint.config("transformer"), checkpoint.config("text_encoder")
    check_transformer(config)
    sizes = [
        Size("the transformer's channels are", config["in_channels"], LATENT_CHANNELS),
        Size("the transformer's text width is", config["text_embed_dim"], encoder["d_model"]),
        Size("the transformer's text tokens are", config["max_text_seq_length"], MAX_TOKENS),
    ]
    check_sizes(PIPELINE, checkpoint, sizes)


def check_vae(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for the VAE of another model."""
    check_classes(PIPELINE, checkpoint, ["vae"])
    config = checkpoint.config("vae")
    halvings = len(config["block_out_channels"]) - 1
    sizes = [
        Size("the VAE's latent channels are", config["latent_channels"], LATENT_CHANNELS),
        Size("the VAE makes sizes smaller by", 2**halvings, VAE_SPATIAL_RATIO),
        Size("the VAE makes frames fewer by", config["temporal_compression_ratio"], VAE_TEMPORAL_RATIO),
    ]
    check_sizes(PIPELINE, checkpoint, sizes)


def prepare(request: CogVideoXRequest, checkpoint: Checkpoint) -> Prepared:
    """The scheduler and the rotary embedding.

    Raises RequestError for a picture larger than the model knows, CheckpointError for a checkpoint that we
    cannot run.
    """
    check_all_heeded(PIPELINE, checkpoint)
    check_denoiser(checkpoint)
    config = checkpoint.config("transformer")
    settings = checkpoint.config("scheduler", "scheduler_config.json")
    return Prepared(
        scheduler.build_scheduler(settings, request.num_inference_steps),
        rotary_embedding(config, request.latent_shape),
    )


def run_stages(
    job: Job, request: CogVideoXRequest, prepared: Prepared
) -> tuple[jax.Array, NDArray[np.float32]]:
    """The final latents, padding first, and the video's frames `[frames, height, width, 3]` in 0..1."""
    embeddings = encode_prompts(job, [request.prompt, request.negative_prompt][: request.branches])
    latents = denoise(job, request, prepared, embeddings)
    return latents, decode_latents(job, latents, request.padding_frames)


def encode_prompts(job: Job, prompts: list[str]) -> jax.Array:
    """Embeddings `[prompts, 226, width]`, split over the guidance branches."""
    encoder = job.load(text_encoder(job.mesh))
    ids, _ = job.tokens(tokenize, prompts, MAX_TOKENS)  # the pipeline gives T5 no mask
    config = job.checkpoint.config("text_encoder")
    return run_once(
        job,
        StageName.TEXT_ENCODE,
        encoder,
        partial(encode, encoder.module),
        job.put(ids, job.everywhere),
        sharding=layout.branches(job.mesh),
        cost=StepCost(
            flops.text_encoder_flops(config, len(prompts), MAX_TOKENS),
            flops.text_encoder_bytes(config, len(prompts), MAX_TOKENS, job.itemsize),
        ),
    )


def denoise(job: Job, request: CogVideoXRequest, prepared: Prepared, embeddings: AnyArray) -> jax.Array:
    """The final latents `[1, frames, channels, height, width]`, replicated; padding frames come first.

    `embeddings` are those of the guidance branches, the prompt's first.
    """
    loaded = job.load(transformer(job.mesh))
    generator = torch.Generator().manual_seed(request.seed)
    noise = randn_tensor(request.latent_shape, generator=generator, dtype=torch.float32).numpy()
    schedule = scheduler.tabulate(prepared.scheduler)
    guidance = scheduler.guidance_scales(request, schedule)
    solver, schedule, guidance, rotary = job.put(
        (scheduler.start(noise), schedule, guidance, prepared.rotary), job.everywhere
    )
    noises = scheduler.noises(prepared.scheduler, request.latent_shape, generator)
    step = partial(denoising_step, partial(predict, loaded.module, job.mesh, job.dtype), scheduler.advance)
    solver = run_denoising(
        job,
        "transformer",
        loaded,
        solver,
        [Step(step, _step_cost(job, request))] * request.num_inference_steps,
        (schedule, guidance, job.put(embeddings, layout.branches(job.mesh)), rotary),
        inputs=(job.put(noise, job.everywhere) for noise in noises),
    )
    final: jax.Array = solver.sample
    return final


def decode_latents(job: Job, latents: AnyArray, padding_frames: int) -> NDArray[np.float32]:
    """The video frames `[frames, height, width, 3]` in 0..1, on the host."""
    decoder = job.load(DECODER)
    split = layout.frames(layout.pixels(job.mesh, latents.shape))
    return run_turns(
        job,
        StageName.VAE_DECODE,
        decoder,
        job.put(latents, job.everywhere),
        decoding_turns(decoder.module, job.checkpoint.config("vae"), latents.shape, padding_frames, split),
        sharding=split,
        cache_sharding=NamedSharding(job.mesh, PartitionSpec(None, *split.spec)),
    )


def _step_cost(job: Job, request: CogVideoXRequest) -> StepCost:
    """Of one denoising step, both branches together."""
    config = job.checkpoint.config("transformer")
    _, frames, channels, height, width = request.latent_shape
    groups = job.mesh.shape[DATA]  # each group of devices reads all the weights for its share of the branches
    share = (request.branches // groups, frames, channels, height, width)
    moved = flops.transformer_forward_bytes(config, share, MAX_TOKENS, job.itemsize)
    both = (request.branches, frames, channels, height, width)
    return StepCost(flops.transformer_forward_flops(config, both, MAX_TOKENS), groups * moved)
