"""The stages that Wan's models share: prompts to embeddings, noise to latents, latents to frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from jax.sharding import Mesh
from numpy.typing import NDArray
from transformers import UMT5EncoderModel

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel import layout
from crystools_pipelines.parallel.mesh import DATA, make_mesh
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.runtime import multistep
from crystools_pipelines.runtime.denoising import denoising_step
from crystools_pipelines.runtime.job import AnyArray, Job, initial_noise
from crystools_pipelines.runtime.multistep import Schedule, SolverState
from crystools_pipelines.runtime.stages import Step, StepCost, run_denoising, run_once, run_turns
from crystools_pipelines.text import t5
from crystools_pipelines.wan import flops, sharding
from crystools_pipelines.wan.request import (
    LATENT_CHANNELS,
    VAE_SPATIAL_RATIO,
    VAE_TEMPORAL_RATIO,
    WanRequest,
)
from crystools_pipelines.wan.text import MAX_TOKENS, build_text_encoder, encode, tokenize
from crystools_pipelines.wan.transformer import build_transformer, predict
from crystools_pipelines.wan.vae import build_decoder, decoding_turns
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import (
    Size,
    check_classes,
    check_components,
    check_sizes,
)
from crystools_pipelines.weights.part import Part
from crystools_tpu.telemetry import StageName

DECODER = Part("vae", build_decoder, sharding.VAE, (r"(encoder|quant_conv)\..*",), dtype="float32")


def text_encoder(mesh: Mesh) -> Part[UMT5EncoderModel]:
    """The text encoder on this mesh."""
    build = partial(build_text_encoder, mesh=mesh)
    return Part("text_encoder", build, t5.ENCODER, t5.LEFTOVERS, tokenized=True)


def transformer(mesh: Mesh, component: str) -> Part[WanTransformer3DModel]:
    """That transformer on this mesh."""
    return Part(component, partial(build_transformer, mesh=mesh), sharding.TRANSFORMER)


def check_checkpoint(model: str, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless the configurations are of a checkpoint that the model can run."""
    check_components(model, checkpoint)
    check_vae(model, checkpoint)
    check_transformer(model, checkpoint, "transformer")
    text_width = checkpoint.config("text_encoder")["d_model"]
    size = Size("the transformer's text width is", checkpoint.config("transformer")["text_dim"], text_width)
    check_sizes(model, checkpoint, [size])


def check_transformer(model: str, checkpoint: Checkpoint, component: str) -> None:
    """Raises CheckpointError unless that transformer takes and gives what the model's does."""
    check_classes(model, checkpoint, [component])
    config, published = checkpoint.config(component), MODELS[model].published()[component]
    sizes = [
        Size(f"the {component}'s image width is", config["image_dim"], None),
        Size(f"the {component}'s input channels are", config["in_channels"], published["in_channels"]),
        Size(f"the {component}'s output channels are", config["out_channels"], LATENT_CHANNELS),
        Size(f"the {component}'s patch is", list(config["patch_size"]), published["patch_size"]),
    ]
    check_sizes(model, checkpoint, sizes)


def check_vae(model: str, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for the VAE of another model."""
    check_classes(model, checkpoint, ["vae"])
    config = checkpoint.config("vae")
    halvings = config["temperal_downsample"]
    sizes = [
        Size("the VAE's latent channels are", config["z_dim"], LATENT_CHANNELS),
        Size("the VAE's patch is", config["patch_size"], None),
        Size("the VAE makes sizes smaller by", 2 ** len(halvings), VAE_SPATIAL_RATIO),
        Size("the VAE makes frames fewer by", 2 ** sum(halvings), VAE_TEMPORAL_RATIO),
        Size("the number of latents' means is", len(config["latents_mean"]), LATENT_CHANNELS),
        Size("the number of latents' deviations is", len(config["latents_std"]), LATENT_CHANNELS),
    ]
    check_sizes(model, checkpoint, sizes)


def mesh_over(
    model: str,
    devices: Sequence[jax.Device],
    checkpoint: Checkpoint,
    branches: int,
    shape: MeshShape | None = None,
) -> Mesh:
    """The devices as the stages of a checkpoint use them, for so many guidance branches.

    Raises RequestError for a shape that cannot be, CheckpointError for a checkpoint that we cannot run.
    """
    check_classes(model, checkpoint, ["transformer", "text_encoder"])
    return make_mesh(devices, branches=branches, widths=widths(checkpoint), model=model, shape=shape)


def widths(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The sizes that a mesh's `tensor` splits."""
    return sharding.widths(checkpoint.config("transformer"), checkpoint.config("text_encoder"))


def encode_prompts(job: Job, prompts: list[str]) -> jax.Array:
    """Embeddings `[prompts, 512, width]`, split over the guidance branches."""
    encoder = job.load(text_encoder(job.mesh))
    return run_once(
        job,
        StageName.TEXT_ENCODE,
        encoder,
        partial(encode, encoder.module),
        *job.put(job.tokens(tokenize, prompts, MAX_TOKENS), job.everywhere),
        sharding=layout.branches(job.mesh),
        cost=_text_cost(job, len(prompts)),
    )


@dataclass(frozen=True)
class Phase:
    """Consecutive denoising steps by one transformer, with one guidance scale."""

    component: str
    steps: int
    guidance_scale: float


def denoise(
    job: Job,
    request: WanRequest,
    scheduler: UniPCMultistepScheduler,
    phases: Sequence[Phase],
    embeddings: AnyArray,
    condition: NDArray[np.float32] | None = None,
) -> jax.Array:
    """The final latents, replicated. A phase's transformer need not be there any more when the next comes.

    `embeddings` are those of the guidance branches, the prompt's first.
    """
    schedule = multistep.tabulate(scheduler, request.num_inference_steps)
    solver = multistep.start(schedule, initial_noise(request.latent_shape, request.seed))
    schedule, solver, conditioned = job.put((schedule, solver, condition), job.everywhere)
    branches = job.put(embeddings, layout.branches(job.mesh))
    for phase in phases:
        solver = _run_phase(job, phase, schedule, solver, branches, conditioned)
    final: jax.Array = solver.sample  # type: ignore[assignment]
    return final


def _run_phase(
    job: Job,
    phase: Phase,
    schedule: Schedule,
    solver: SolverState,
    embeddings: jax.Array,
    condition: jax.Array | None,
) -> SolverState:
    loaded = job.load(transformer(job.mesh, phase.component))
    guidance = job.put(np.float32(phase.guidance_scale), job.everywhere)
    step = Step(
        partial(denoising_step, partial(predict, loaded.module, job.mesh, job.dtype), multistep.advance),
        _step_cost(job, phase.component, embeddings.shape[0], solver.sample.shape),
    )
    constants = (schedule, guidance, embeddings, condition)
    return run_denoising(job, phase.component, loaded, solver, [step] * phase.steps, constants)


def decode_latents(job: Job, latents: AnyArray) -> NDArray[np.float32]:
    """The video frames `[frames, height, width, 3]` in 0..1, on the host."""
    decoder = job.load(DECODER)
    split = layout.pixels(job.mesh, latents.shape)
    return run_turns(
        job,
        StageName.VAE_DECODE,
        decoder,
        job.put(latents, job.everywhere),
        decoding_turns(decoder.module, job.checkpoint.config("vae"), latents.shape),
        sharding=layout.frames(split),
        cache_sharding=split,
    )


def _text_cost(job: Job, prompts: int) -> StepCost:
    config = job.checkpoint.config("text_encoder")
    return StepCost(
        flops.text_encoder_flops(config, prompts, MAX_TOKENS),
        flops.text_encoder_bytes(config, prompts, MAX_TOKENS, job.itemsize),
    )


def _step_cost(job: Job, component: str, branches: int, latent_shape: Sequence[int]) -> StepCost:
    """Of one denoising step, all branches together."""
    config = job.checkpoint.config(component)
    _, channels, frames, height, width = latent_shape
    groups = job.mesh.shape[DATA]  # each group of devices reads all the weights for its share of the branches
    share = (branches // groups, channels, frames, height, width)
    moved = flops.transformer_forward_bytes(config, share, MAX_TOKENS, job.itemsize)
    every = (branches, channels, frames, height, width)
    return StepCost(flops.transformer_forward_flops(config, every, MAX_TOKENS), groups * moved)


def load_scheduler(checkpoint: Checkpoint, shift: float) -> UniPCMultistepScheduler:
    """The checkpoint's scheduler with this shift of its flow. Raises CheckpointError where it is another."""
    config = checkpoint.config("scheduler", "scheduler_config.json")
    if config.get("_class_name") != UniPCMultistepScheduler.__name__:
        raise CheckpointError(
            f"the scheduler is {config.get('_class_name')}; give a checkpoint with UniPCMultistepScheduler"
        )
    return UniPCMultistepScheduler.from_config(config, flow_shift=shift)
