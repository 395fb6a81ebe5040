"""FLUX.2 text-to-image: a prompt to embeddings, noise to latents, latents to an image."""

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from jax.sharding import Mesh

from crystools_pipelines.costs import Cost
from crystools_pipelines.errors import RequestError
from crystools_pipelines.flux2 import costs, sharding
from crystools_pipelines.flux2.request import (
    PATCH,
    SIZE_MULTIPLE,
    TOKEN_CHANNELS,
    VAE_RATIO,
    Flux2Request,
)
from crystools_pipelines.flux2.text import (
    LAYERS,
    LEFTOVERS,
    MAX_TOKENS,
    build_prompt_encoder,
    check_text_encoder,
    tokenize,
)
from crystools_pipelines.flux2.transformer import build_transformer, predict, rotary_tables
from crystools_pipelines.flux2.vae import build_decoder, decoding_turn
from crystools_pipelines.parallel import layout
from crystools_pipelines.requests.request import Size as PixelSize
from crystools_pipelines.requests.step_cache import FirstBlockCache
from crystools_pipelines.runtime import multistep
from crystools_pipelines.runtime.flow import FlowScheduler, load_flow_scheduler, set_steps
from crystools_pipelines.runtime.job import Job, initial_noise
from crystools_pipelines.runtime.pipeline import Config, Decoding, Denoising, Phase, Pipeline
from crystools_pipelines.runtime.previews import Preview
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import Size, check_all_heeded
from crystools_pipelines.weights.part import Part


@dataclass(frozen=True)
class Prepared:
    """What a request needs beside the checkpoint's weights: the scheduler, set to the request's steps, and
    what it does in each."""

    scheduler: FlowScheduler
    schedule: multistep.Schedule


class Flux2(Pipeline[Flux2Request, Prepared]):
    """FLUX.2's stages. The latents are as the transformer sees them, `[1, tokens, 128]`."""

    model = "flux.2"
    most_branches = Flux2Request.branches

    tokenize = staticmethod(tokenize)
    max_tokens = MAX_TOKENS
    text_width = "joint_attention_dim"
    predict = staticmethod(predict)
    advance = staticmethod(multistep.advance)
    hidden_size = staticmethod(costs.hidden_size)
    step_cache_news: ClassVar = {
        FirstBlockCache: "diffusers has no FirstBlockCache for this model's two kinds of blocks; "
        "here its rule is applied to both as one stack"
    }

    def vae_sizes(self, config: Config) -> list[Size]:
        halvings = len(config["block_out_channels"]) - 1
        return [
            Size("the VAE's latent channels are", config["latent_channels"], TOKEN_CHANNELS // PATCH**2),
            Size("the VAE's patch is", list(config["patch_size"]), [PATCH, PATCH]),
            Size("the VAE makes sizes smaller by", 2**halvings, VAE_RATIO),
        ]

    def denoiser_sizes(self, checkpoint: Checkpoint) -> list[Size]:
        text_width = len(LAYERS) * check_text_encoder(checkpoint.config("text_encoder"))["hidden_size"]
        channels = checkpoint.config("transformer")["in_channels"]
        return [
            Size("the transformer's channels are", channels, TOKEN_CHANNELS),
            Size("the transformer's text width is", self.embedding_width(checkpoint), text_width),
        ]

    def widths(self, checkpoint: Checkpoint) -> tuple[int, ...]:
        text_config = check_text_encoder(checkpoint.config("text_encoder"))
        return sharding.widths(checkpoint.config("transformer"), text_config)

    def prepare(self, request: Flux2Request, checkpoint: Checkpoint) -> Prepared:
        """The schedule shifts with the size of the image, as in diffusers' pipeline."""
        check_all_heeded(self.model, checkpoint)
        self.check_denoiser(checkpoint)
        self.check_step_cache(request, checkpoint)
        scheduler: FlowScheduler = load_flow_scheduler(checkpoint, request.scheduler)
        steps, sigmas = request.num_inference_steps, request.sigmas
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            sigmas = tuple(np.linspace(1.0, 1 / steps, steps)) if sigmas is None else sigmas
        elif sigmas is not None:
            raise RequestError("sigmas", "only euler takes them; leave them out, or step with euler")
        set_steps(scheduler, steps, sigmas=sigmas, mu=compute_empirical_mu(prod(request.grid), steps))
        return Prepared(scheduler, multistep.tabulate(scheduler))

    def first_blocks(self, config: Config, count: int) -> Config:
        double = min(count, config["num_layers"])
        return {**config, "num_layers": double, "num_single_layers": count - double}

    def text_encoder(self, mesh: Mesh) -> Part[Any]:
        build = partial(build_prompt_encoder, mesh=mesh)
        return Part("text_encoder", build, sharding.TEXT_ENCODER, LEFTOVERS, tokenized=True)

    def transformer(self, mesh: Mesh, component: str = "transformer") -> Part[Any]:
        return Part(component, partial(build_transformer, mesh=mesh), sharding.TRANSFORMER)

    def decoder(self, mesh: Mesh) -> Part[Any]:
        leftovers = (r"(encoder|quant_conv)\..*", r"bn\.num_batches_tracked")
        return Part("vae", partial(build_decoder, mesh=mesh), sharding.VAE, leftovers, dtype="float32")

    def text_cost(self, config: Config, prompts: int, tokens: int) -> Cost:
        return costs.text_encoder(config["text_config"], tokens, LAYERS)

    def step_cost(self, config: Config, latent_shape: Any, tokens: int) -> Cost:
        return costs.transformer(config, latent_shape[1], tokens)

    def condition(self, job: Job, request: Flux2Request, prepared: Any) -> Any:
        """The rotary tables of image and text."""
        return rotary_tables(job.checkpoint.config("transformer"), request.grid, MAX_TOKENS)

    def denoising(self, request: Flux2Request, prepared: Prepared) -> Denoising:
        noise = initial_noise((1, TOKEN_CHANNELS, *request.grid), request.seed)
        packed = noise.reshape(1, TOKEN_CHANNELS, -1).swapaxes(1, 2)
        phase = Phase("transformer", request.num_inference_steps, request.guidance_scale)
        return Denoising([phase], prepared.schedule, multistep.start(prepared.schedule, packed))

    def preview(self, request: Flux2Request, prepared: Prepared) -> Preview | None:
        """None for a scheduler that predicts the noise instead of the clean latents."""
        return partial(_picture, request.grid) if multistep.predicts_clean(prepared.scheduler) else None

    def latent_shape(self, request: Flux2Request) -> tuple[int, ...]:
        return 1, prod(request.grid), TOKEN_CHANNELS

    def decoding(
        self, mesh: Mesh, config: Config, decoder: Any, latent_shape: Any, size: PixelSize
    ) -> Decoding:
        grid = size.height // SIZE_MULTIPLE, size.width // SIZE_MULTIPLE
        split = layout.frames(layout.pixels(mesh, (1, TOKEN_CHANNELS, *grid)))
        return [decoding_turn(decoder, mesh, config, grid)], split, split


def _picture(grid: tuple[int, int], state: multistep.SolverState) -> jax.Array:
    """The predicted latents, float32 `[1, 128, rows, columns]`, `grid` being rows and columns."""
    return jnp.swapaxes(multistep.clean(state), 1, 2).reshape(1, -1, *grid)


PIPELINE = Flux2()
