"""FLUX.2 text-to-image: a prompt and a diffusers checkpoint to an image, every stage and step reported."""

from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.flux2 import flops, sharding
from crystools_pipelines.flux2.request import PATCH, TOKEN_CHANNELS, VAE_RATIO, Flux2Request
from crystools_pipelines.flux2.schedule import SolverState, advance, tabulate
from crystools_pipelines.flux2.text import (
    LAYERS,
    LEFTOVERS,
    MAX_TOKENS,
    PromptEncoder,
    build_prompt_encoder,
    check_text_encoder,
    encode,
    tokenize,
)
from crystools_pipelines.flux2.transformer import build_transformer, predict, rotary_tables
from crystools_pipelines.flux2.vae import ImageDecoder, build_decoder, decode
from crystools_pipelines.parallel import layout
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
    initial_noise,
    params_of,
    started_job,
)
from crystools_pipelines.runtime.programs import QUICK_COMPILE
from crystools_pipelines.runtime.stages import FLOAT32_BYTES, Step, StepCost, run_denoising, run_once
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

__all__ = ["PIPELINE", "Flux2Request", "Generation", "generate"]

PIPELINE = "flux.2"


def generate(
    request: Flux2Request,
    *,
    checkpoint: str | Path,
    devices: int = 0,
    mesh: MeshShape | None = None,
    dtype: str | None = None,
    out: Path | None = None,
) -> Generation:
    """Generates one image and, if `out` is given, writes it there: `.png`, or `.npy` for the bare array.

    `checkpoint` is a folder in diffusers' format or a hub id. `devices` is how many jax devices to use, 0 for
    all; `mesh` is how they share the work. `dtype` is that of the text encoder and the transformer, by
    default bfloat16, on a CPU float32; the VAE is always in float32. The latents come back as the transformer
    sees them, `[1, tokens, 128]`.

    Raises RequestError for an argument that cannot be served, CheckpointError for a checkpoint that we cannot
    run.
    """
    check_output(out, request, fps=1)
    source = Checkpoint(checkpoint)
    scheduler = prepare(request, source)
    placed = make_mesh(request, source, choose_devices(devices), mesh)
    forecast = kept_forecast(PIPELINE, request, source, placed, dtype)
    parts = [text_encoder(placed), transformer(placed), decoder(placed)]
    with started_job(
        PIPELINE, params_of(request), source, placed, dtype, parts=parts, forecast=forecast
    ) as job:
        latents, image = run_stages(job, request, scheduler)
        job.save(image, out, fps=1)
    return Generation(image, np.array(latents), job.run.report)


def text_encoder(mesh: Mesh) -> Part[PromptEncoder]:
    """The text encoder on this mesh."""
    build = partial(build_prompt_encoder, mesh=mesh)
    return Part("text_encoder", build, sharding.TEXT_ENCODER, LEFTOVERS, tokenized=True)


def transformer(mesh: Mesh) -> Part[Flux2Transformer2DModel]:
    """The transformer on this mesh."""
    return Part("transformer", partial(build_transformer, mesh=mesh), sharding.TRANSFORMER)


def decoder(mesh: Mesh) -> Part[ImageDecoder]:
    """The VAE's decoder on this mesh."""
    leftovers = (r"(encoder|quant_conv)\..*", r"bn\.num_batches_tracked")
    return Part("vae", partial(build_decoder, mesh=mesh), sharding.VAE, leftovers, dtype="float32")


def make_mesh(
    request: Flux2Request,
    checkpoint: Checkpoint,
    devices: Sequence[jax.Device],
    shape: MeshShape | None = None,
) -> Mesh:
    """The devices as any request's stages use them.

    Raises RequestError for a shape that cannot be, CheckpointError for a checkpoint that we cannot run.
    """
    check_checkpoint(checkpoint)
    return mesh_over(devices, checkpoint, shape)


def legal_meshes(request: Flux2Request, checkpoint: Checkpoint, devices: int) -> list[MeshShape]:
    """The shapes that `make_mesh` takes for so many devices."""
    return legal_shapes(devices, branches=request.branches, widths=widths(checkpoint))


def mesh_over(devices: Sequence[jax.Device], checkpoint: Checkpoint, shape: MeshShape | None = None) -> Mesh:
    """The devices as the stages of a checkpoint use them.

    Raises RequestError for a shape that cannot be, CheckpointError for a checkpoint that we cannot run.
    """
    check_classes(PIPELINE, checkpoint, ["transformer", "text_encoder"])
    return mesh_of(
        devices, branches=Flux2Request.branches, widths=widths(checkpoint), model=PIPELINE, shape=shape
    )


def widths(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The sizes that a mesh's `tensor` splits."""
    text_config = check_text_encoder(checkpoint.config("text_encoder"))
    return sharding.widths(checkpoint.config("transformer"), text_config)


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless the configurations are of a checkpoint that can be run whole."""
    check_components(PIPELINE, checkpoint)
    check_vae(checkpoint)
    check_denoiser(checkpoint)


def check_denoiser(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless the transformer takes and gives what the model's does."""
    check_classes(PIPELINE, checkpoint, ["transformer", "text_encoder"])
    config = checkpoint.config("transformer")
    text_width = len(LAYERS) * check_text_encoder(checkpoint.config("text_encoder"))["hidden_size"]
    sizes = [
        Size("the transformer's channels are", config["in_channels"], TOKEN_CHANNELS),
        Size("the transformer's text width is", config["joint_attention_dim"], text_width),
    ]
    check_sizes(PIPELINE, checkpoint, sizes)


def check_vae(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for the VAE of another model."""
    check_classes(PIPELINE, checkpoint, ["vae"])
    config = checkpoint.config("vae")
    halvings = len(config["block_out_channels"]) - 1
    sizes = [
        Size("the VAE's latent channels are", config["latent_channels"], TOKEN_CHANNELS // PATCH**2),
        Size("the VAE's patch is", list(config["patch_size"]), [PATCH, PATCH]),
        Size("the VAE makes sizes smaller by", 2**halvings, VAE_RATIO),
    ]
    check_sizes(PIPELINE, checkpoint, sizes)


def prepare(request: Flux2Request, checkpoint: Checkpoint) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler. Raises CheckpointError for a checkpoint that we cannot run."""
    check_all_heeded(PIPELINE, checkpoint)
    check_denoiser(checkpoint)
    return load_scheduler(checkpoint)


def run_stages(
    job: Job, request: Flux2Request, scheduler: FlowMatchEulerDiscreteScheduler
) -> tuple[jax.Array, NDArray[np.float32]]:
    """The final latents, and the image `[1, height, width, 3]` in 0..1."""
    embeddings = encode_prompt(job, request.prompt)
    latents = denoise(job, request, scheduler, embeddings)
    return latents, decode_latents(job, request.grid, latents)


def encode_prompt(job: Job, prompt: str) -> jax.Array:
    """Embeddings `[1, 512, 3 * width]`, on every device."""
    encoder = job.load(text_encoder(job.mesh))
    config = job.checkpoint.config("text_encoder")["text_config"]
    return run_once(
        job,
        StageName.TEXT_ENCODE,
        encoder,
        partial(encode, encoder.module),
        *job.put(job.tokens(tokenize, [prompt], MAX_TOKENS), job.everywhere),
        sharding=job.everywhere,
        cost=StepCost(
            flops.text_encoder_flops(config, MAX_TOKENS, LAYERS[-1]),
            flops.text_encoder_bytes(config, MAX_TOKENS, LAYERS, job.itemsize),
        ),
    )


def denoise(
    job: Job, request: Flux2Request, scheduler: FlowMatchEulerDiscreteScheduler, embeddings: AnyArray
) -> jax.Array:
    """The final latents, float32 `[1, tokens, 128]`, on every device."""
    loaded = job.load(transformer(job.mesh))
    config = job.checkpoint.config("transformer")
    noise = initial_noise((1, TOKEN_CHANNELS, *request.grid), request.seed)
    packed = noise.reshape(1, TOKEN_CHANNELS, -1).swapaxes(1, 2)
    solver, *constants = job.put(
        (
            SolverState(np.int32(0), packed),
            tabulate(scheduler, request.num_inference_steps, prod(request.grid)),
            np.float32(request.guidance_scale),
            embeddings,
            rotary_tables(config, request.grid, MAX_TOKENS),
        ),
        job.everywhere,
    )
    step = Step(
        partial(denoising_step, partial(predict, loaded.module, job.dtype), advance),
        _step_cost(job, config, request),
    )
    steps = [step] * request.num_inference_steps
    solver = run_denoising(job, "transformer", loaded, solver, steps, tuple(constants))
    final: jax.Array = solver.sample
    return final


def decode_latents(job: Job, grid: tuple[int, int], latents: AnyArray) -> NDArray[np.float32]:
    """The image `[1, height, width, 3]` in 0..1, on the host; `grid` is rows and columns of tokens."""
    loaded = job.load(decoder(job.mesh))
    rows, columns = (2 * size for size in grid)
    config = job.checkpoint.config("vae")
    image = run_once(
        job,
        StageName.VAE_DECODE,
        loaded,
        partial(decode, loaded.module, job.mesh, grid),
        job.put(latents, job.everywhere),
        sharding=layout.frames(layout.pixels(job.mesh, (1, TOKEN_CHANNELS, *grid))),
        cost=StepCost(
            flops.vae_decode_flops(config, rows, columns),
            flops.vae_decode_bytes(config, rows, columns, FLOAT32_BYTES),
        ),
        effort=QUICK_COMPILE,
    )
    return job.to_host([image])


def _step_cost(job: Job, config: dict[str, Any], request: Flux2Request) -> StepCost:
    tokens = prod(request.grid)
    return StepCost(
        flops.transformer_forward_flops(config, tokens, MAX_TOKENS),
        flops.transformer_forward_bytes(config, tokens, MAX_TOKENS, job.itemsize),
    )


def load_scheduler(checkpoint: Checkpoint) -> FlowMatchEulerDiscreteScheduler:
    """The checkpoint's scheduler. Raises CheckpointError where it is another."""
    config = checkpoint.config("scheduler", "scheduler_config.json")
    if config.get("_class_name") != FlowMatchEulerDiscreteScheduler.__name__:
        raise CheckpointError(
            f"the scheduler is {config.get('_class_name')}; "
            "give a checkpoint with FlowMatchEulerDiscreteScheduler"
        )
    return FlowMatchEulerDiscreteScheduler.from_config(config)
