"""CogVideoX text-to-video: prompts to embeddings, noise to latents, latents to frames."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from crystools_pipelines.cogvideox import costs, scheduler, sharding
from crystools_pipelines.cogvideox.request import (
    LATENT_CHANNELS,
    VAE_SPATIAL_RATIO,
    VAE_TEMPORAL_RATIO,
    CogVideoXRequest,
    latent_frames,
)
from crystools_pipelines.cogvideox.text import MAX_TOKENS, TextEncoder, tokenize
from crystools_pipelines.cogvideox.transformer import (
    build_transformer,
    check_transformer,
    predict,
    rotary_embedding,
)
from crystools_pipelines.cogvideox.vae import build_decoder, decoding_turns
from crystools_pipelines.parallel import layout
from crystools_pipelines.requests.request import Size as PixelSize
from crystools_pipelines.runtime.job import Job
from crystools_pipelines.runtime.pipeline import Config, Decoding, Denoising, Phase, Pipeline
from crystools_pipelines.runtime.scheduler import scheduler_classes
from crystools_pipelines.text import t5
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import Size, check_all_heeded
from crystools_pipelines.weights.part import Part


@dataclass(frozen=True)
class Prepared:
    """What a request needs beside the checkpoint's weights."""

    scheduler: scheduler.Scheduler
    rotary: tuple[NDArray[np.float32], NDArray[np.float32]]


class CogVideoX(Pipeline[CogVideoXRequest, Prepared]):
    """CogVideoX's stages."""

    model = "cogvideox-t2v"
    split_components = ("transformer", "text_encoder", "vae")

    tokenize = staticmethod(tokenize)
    max_tokens = MAX_TOKENS
    text_width = "text_embed_dim"
    predict = staticmethod(predict)
    advance = staticmethod(scheduler.advance)
    text_cost = staticmethod(costs.text_encoder)
    step_cost = staticmethod(costs.transformer)
    hidden_size = staticmethod(costs.hidden_size)

    def vae_sizes(self, config: Config) -> list[Size]:
        halvings = len(config["block_out_channels"]) - 1
        return [
            Size("the VAE's latent channels are", config["latent_channels"], LATENT_CHANNELS),
            Size("the VAE makes sizes smaller by", 2**halvings, VAE_SPATIAL_RATIO),
            Size("the VAE makes frames fewer by", config["temporal_compression_ratio"], VAE_TEMPORAL_RATIO),
        ]

    def denoiser_sizes(self, checkpoint: Checkpoint) -> list[Size]:
        config, encoder = checkpoint.config("transformer"), checkpoint.config("text_encoder")
        check_transformer(config)
        return [
            Size("the transformer's channels are", config["in_channels"], LATENT_CHANNELS),
            Size("the transformer's text width is", config["text_embed_dim"], encoder["d_model"]),
            Size("the transformer's text tokens are", config["max_text_seq_length"], MAX_TOKENS),
        ]

    def widths(self, checkpoint: Checkpoint) -> tuple[int, ...]:
        return sharding.widths(*(checkpoint.config(component) for component in self.split_components))

    def prepare(self, request: CogVideoXRequest, checkpoint: Checkpoint) -> Prepared:
        """Raises RequestError for a picture larger than the model knows, too."""
        check_all_heeded(self.model, checkpoint)
        self.check_denoiser(checkpoint)
        self.check_step_cache(request, checkpoint)
        config, _, kind = scheduler_classes(checkpoint, scheduler.SCHEDULERS, request.scheduler)
        loaded: scheduler.Scheduler = kind.from_config(config)  # both are configured by the same
        loaded.set_timesteps(request.num_inference_steps)
        return Prepared(loaded, rotary_embedding(checkpoint.config("transformer"), request.latent_shape))

    def text_encoder(self, mesh: Mesh) -> Part[Any]:
        return t5.encoder(TextEncoder, mesh)

    def transformer(self, mesh: Mesh, component: str = "transformer") -> Part[Any]:
        return Part(component, partial(build_transformer, mesh=mesh), sharding.TRANSFORMER)

    def decoder(self, mesh: Mesh) -> Part[Any]:
        return Part("vae", build_decoder, sharding.VAE, (r"(encoder|quant_conv)\..*",), dtype="float32")

    def condition(self, job: Job, request: CogVideoXRequest, prepared: Prepared) -> Any:
        return prepared.rotary

    def denoising(self, request: CogVideoXRequest, prepared: Prepared) -> Denoising:
        """The latents are `[1, frames, channels, height, width]`; padding frames come first."""
        generator = torch.Generator().manual_seed(request.seed)
        noise = randn_tensor(request.latent_shape, generator=generator, dtype=torch.float32).numpy()
        schedule = scheduler.tabulate(prepared.scheduler)
        guidance = scheduler.guidance_scales(request, schedule)
        return Denoising(
            [Phase("transformer", request.num_inference_steps, guidance)],
            schedule,
            scheduler.start(noise),
            scheduler.noises(prepared.scheduler, request.latent_shape, generator),
        )

    def without_padding(self, request: CogVideoXRequest, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        return latents[:, request.padding_frames :]

    def latent_shape(self, request: CogVideoXRequest) -> tuple[int, ...]:
        return request.latent_shape

    def decoding(
        self, mesh: Mesh, config: Config, decoder: Any, latent_shape: Any, size: PixelSize
    ) -> Decoding:
        padding = latent_shape[1] - latent_frames(size.num_frames)
        split = layout.frames(layout.pixels(mesh, latent_shape))
        turns = decoding_turns(decoder, config, latent_shape, padding, split)
        return turns, split, NamedSharding(mesh, PartitionSpec(None, *split.spec))


PIPELINE = CogVideoX()
