"""FLUX.2 text-to-image: a prompt to embeddings, noise to latents, latents to an image."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.flux2 import flops, sharding
from crystools_pipelines.flux2.request import (
    PATCH,
    SIZE_MULTIPLE,
    TOKEN_CHANNELS,
    VAE_RATIO,
    Flux2Request,
)
from crystools_pipelines.flux2.schedule import SolverState, advance, tabulate
from crystools_pipelines.flux2.text import (
    LAYERS,
    LEFTOVERS,
    MAX_TOKENS,
    build_prompt_encoder,
    check_text_encoder,
    encode,
    tokenize,
)
from crystools_pipelines.flux2.transformer import build_transformer, predict, rotary_tables
from crystools_pipelines.flux2.vae import build_decoder, decode
from crystools_pipelines.parallel import layout
from crystools_pipelines.requests.size import Size as ImageSize
from crystools_pipelines.runtime.denoising import denoising_step
from crystools_pipelines.runtime.job import AnyArray, Job, initial_noise
from crystools_pipelines.runtime.pipeline import Pipeline
from crystools_pipelines.runtime.programs import QUICK_COMPILE
from crystools_pipelines.runtime.scheduler import load_scheduler
from crystools_pipelines.runtime.stages import FLOAT32_BYTES, Step, StepCost, run_denoising, run_once
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import Size, check_all_heeded, check_classes, check_sizes
from crystools_pipelines.weights.part import Part
from crystools_tpu.telemetry import StageName


class Flux2(Pipeline[Flux2Request, FlowMatchEulerDiscreteScheduler]):
    """FLUX.2's stages. The latents are as the transformer sees them, `[1, tokens, 128]`."""

    model = "flux.2"
    most_branches = Flux2Request.branches

    def check_vae(self, checkpoint: Checkpoint) -> None:
        check_classes(self.model, checkpoint, ["vae"])
        config = checkpoint.config("vae")
        halvings = len(config["block_out_channels"]) - 1
        sizes = [
            Size("the VAE's latent channels are", config["latent_channels"], TOKEN_CHANNELS // PATCH**2),
            Size("the VAE's patch is", list(config["patch_size"]), [PATCH, PATCH]),
            Size("the VAE makes sizes smaller by", 2**halvings, VAE_RATIO),
        ]
        check_sizes(self.model, checkpoint, sizes)

    def check_denoiser(self, checkpoint: Checkpoint) -> None:
        check_classes(self.model, checkpoint, ["transformer", "text_encoder"])
        text_width = len(LAYERS) * check_text_encoder(checkpoint.config("text_encoder"))["hidden_size"]
        channels = checkpoint.config("transformer")["in_channels"]
        sizes = [
            Size("the transformer's channels are", channels, TOKEN_CHANNELS),
            Size("the transformer's text width is", self.embedding_width(checkpoint), text_width),
        ]
        check_sizes(self.model, checkpoint, sizes)

    def widths(self, checkpoint: Checkpoint) -> tuple[int, ...]:
        text_config = check_text_encoder(checkpoint.config("text_encoder"))
        return sharding.widths(checkpoint.config("transformer"), text_config)

    def embedding_width(self, checkpoint: Checkpoint) -> int:
        width: int = checkpoint.config("transformer")["joint_attention_dim"]
        return width

    def prepare(self, request: Flux2Request, checkpoint: Checkpoint) -> FlowMatchEulerDiscreteScheduler:
        check_all_heeded(self.model, checkpoint)
        self.check_denoiser(checkpoint)
        return load_scheduler(checkpoint, FlowMatchEulerDiscreteScheduler)

    def text_encoder(self, mesh: Mesh) -> Part[Any]:
        build = partial(build_prompt_encoder, mesh=mesh)
        return Part("text_encoder", build, sharding.TEXT_ENCODER, LEFTOVERS, tokenized=True)

    def denoisers(self, mesh: Mesh, prepared: FlowMatchEulerDiscreteScheduler) -> list[Part[Any]]:
        return [_transformer(mesh)]

    def decoder(self, mesh: Mesh) -> Part[Any]:
        leftovers = (r"(encoder|quant_conv)\..*", r"bn\.num_batches_tracked")
        return Part("vae", partial(build_decoder, mesh=mesh), sharding.VAE, leftovers, dtype="float32")

    def encode(self, job: Job, prompts: Sequence[str]) -> jax.Array:
        encoder = job.load(self.text_encoder(job.mesh))
        config = job.checkpoint.config("text_encoder")["text_config"]
        return run_once(
            job,
            StageName.TEXT_ENCODE,
            encoder,
            partial(encode, encoder.module),
            *job.put(job.tokens(tokenize, prompts, MAX_TOKENS), job.everywhere),
            sharding=job.everywhere,
            cost=StepCost(
                flops.text_encoder_flops(config, MAX_TOKENS, LAYERS[-1]),
                flops.text_encoder_bytes(config, MAX_TOKENS, LAYERS, job.itemsize),
            ),
        )

    def denoise(
        self,
        job: Job,
        request: Flux2Request,
        prepared: FlowMatchEulerDiscreteScheduler,
        embeddings: AnyArray,
        condition: NDArray[np.float32] | None,
    ) -> jax.Array:
        loaded = job.load(_transformer(job.mesh))
        config, tokens = job.checkpoint.config("transformer"), prod(request.grid)
        noise = initial_noise((1, TOKEN_CHANNELS, *request.grid), request.seed)
        packed = noise.reshape(1, TOKEN_CHANNELS, -1).swapaxes(1, 2)
        solver, *constants = job.put(
            (
                SolverState(np.int32(0), packed),
                tabulate(prepared, request.num_inference_steps, tokens),
                np.float32(request.guidance_scale),
                embeddings,
                rotary_tables(config, request.grid, MAX_TOKENS),
            ),
            job.everywhere,
        )
        step = Step(
            partial(denoising_step, partial(predict, loaded.module, job.dtype), advance),
            StepCost(
                flops.transformer_forward_flops(config, tokens, MAX_TOKENS),
                flops.transformer_forward_bytes(config, tokens, MAX_TOKENS, job.itemsize),
            ),
        )
        steps = [step] * request.num_inference_steps
        solver = run_denoising(job, "transformer", loaded, solver, steps, tuple(constants))
        final: jax.Array = solver.sample
        return final

    def decode(self, job: Job, latents: AnyArray, size: ImageSize) -> NDArray[np.float32]:
        loaded = job.load(self.decoder(job.mesh))
        grid = size.height // SIZE_MULTIPLE, size.width // SIZE_MULTIPLE
        rows, columns = (PATCH * tokens for tokens in grid)
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


PIPELINE = Flux2()


def _transformer(mesh: Mesh) -> Part[Flux2Transformer2DModel]:
    return Part("transformer", partial(build_transformer, mesh=mesh), sharding.TRANSFORMER)
