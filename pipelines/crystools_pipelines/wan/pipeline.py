"""The stages that Wan's models share: prompts to embeddings, noise to latents, latents to frames."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from jax.sharding import Mesh
from transformers import UMT5EncoderModel

from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel import layout
from crystools_pipelines.requests.request import Size as PixelSize
from crystools_pipelines.runtime import multistep
from crystools_pipelines.runtime.flow import FlowScheduler, load_flow_scheduler, set_steps
from crystools_pipelines.runtime.job import initial_noise
from crystools_pipelines.runtime.pipeline import Config, Decoding, Denoising, Phase, Pipeline
from crystools_pipelines.runtime.previews import Preview
from crystools_pipelines.text import t5
from crystools_pipelines.wan import costs, sharding
from crystools_pipelines.wan.request import (
    LATENT_CHANNELS,
    VAE_SPATIAL_RATIO,
    VAE_TEMPORAL_RATIO,
    WanRequest,
)
from crystools_pipelines.wan.text import MAX_TOKENS, embed, tokenize
from crystools_pipelines.wan.transformer import build_transformer, predict
from crystools_pipelines.wan.vae import build_decoder, decoding_turns
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import Size, check_all_heeded, check_classes, check_sizes
from crystools_pipelines.weights.part import Part

Request = TypeVar("Request", bound=WanRequest)


@dataclass(frozen=True)
class Prepared:
    """What a request needs beside the checkpoint's weights: the scheduler, set to the request's steps, what
    it does in each, and the `phases`, of which the first is the noisiest."""

    scheduler: FlowScheduler
    schedule: multistep.Schedule
    phases: tuple[Phase, ...]


class WanPipeline(Pipeline[Request, Prepared], Generic[Request]):
    """A model of the family; it says what is the shift of a request's schedule, and its phases."""

    tokenize = staticmethod(tokenize)
    max_tokens = MAX_TOKENS
    text_width = "text_dim"
    embed = staticmethod(embed)
    predict = staticmethod(predict)
    advance = staticmethod(multistep.advance)
    text_cost = staticmethod(costs.text_encoder)
    step_cost = staticmethod(costs.transformer)
    hidden_size = staticmethod(costs.hidden_size)
    step_cache_by_branch = True

    def vae_sizes(self, config: Config) -> list[Size]:
        halvings = config["temperal_downsample"]
        return [
            Size("the VAE's latent channels are", config["z_dim"], LATENT_CHANNELS),
            Size("the VAE's patch is", config["patch_size"], None),
            Size("the VAE makes sizes smaller by", 2 ** len(halvings), VAE_SPATIAL_RATIO),
            Size("the VAE makes frames fewer by", 2 ** sum(halvings), VAE_TEMPORAL_RATIO),
            Size("the number of latents' means is", len(config["latents_mean"]), LATENT_CHANNELS),
            Size("the number of latents' deviations is", len(config["latents_std"]), LATENT_CHANNELS),
        ]

    def denoiser_sizes(self, checkpoint: Checkpoint) -> list[Size]:
        text_width = checkpoint.config("text_encoder")["d_model"]
        text = Size("the transformer's text width is", self.embedding_width(checkpoint), text_width)
        return [*self._transformer_sizes(checkpoint, "transformer"), text]

    def _transformer_sizes(self, checkpoint: Checkpoint, component: str) -> list[Size]:
        config, published = checkpoint.config(component), MODELS[self.model].published()[component]
        return [
            Size(f"the {component}'s image width is", config["image_dim"], None),
            Size(f"the {component}'s input channels are", config["in_channels"], published["in_channels"]),
            Size(f"the {component}'s output channels are", config["out_channels"], LATENT_CHANNELS),
            Size(f"the {component}'s patch is", list(config["patch_size"]), published["patch_size"]),
        ]

    def widths(self, checkpoint: Checkpoint) -> tuple[int, ...]:
        return sharding.widths(checkpoint.config("transformer"), checkpoint.config("text_encoder"))

    @abstractmethod
    def shift(self, request: Request) -> float:
        """The shift of the request's flow schedule, which has no unit."""

    @abstractmethod
    def phases(self, request: Request, checkpoint: Checkpoint, scheduler: FlowScheduler) -> Sequence[Phase]:
        """The transformers, with how many of the steps of `scheduler` each takes, the noisy ones first."""

    def prepare(self, request: Request, checkpoint: Checkpoint) -> Prepared:
        check_all_heeded(self.model, checkpoint)
        check_classes(self.model, checkpoint, ["transformer"])
        scheduler = load_flow_scheduler(checkpoint, request.scheduler, self.shift(request))
        steps = request.num_inference_steps
        set_steps(scheduler, steps, sigmas=request.sigmas, timesteps=request.timesteps)
        phases = tuple(phase for phase in self.phases(request, checkpoint, scheduler) if phase.steps)
        for phase in phases:
            check_classes(self.model, checkpoint, [phase.component])
            check_sizes(self.model, checkpoint, self._transformer_sizes(checkpoint, phase.component))
        self.check_step_cache(request, checkpoint, [phase.component for phase in phases])
        return Prepared(scheduler, multistep.tabulate(scheduler), phases)

    def text_encoder(self, mesh: Mesh) -> Part[Any]:
        return t5.encoder(UMT5EncoderModel, mesh)

    def transformer(self, mesh: Mesh, component: str = "transformer") -> Part[Any]:
        return Part(component, partial(build_transformer, mesh=mesh), sharding.TRANSFORMER)

    def denoisers(self, mesh: Mesh, prepared: Prepared) -> list[Part[Any]]:
        return [self.transformer(mesh, phase.component) for phase in prepared.phases]

    def decoder(self, mesh: Mesh) -> Part[Any]:
        return Part("vae", build_decoder, sharding.VAE, (r"(encoder|quant_conv)\..*",), dtype="float32")

    def denoising(self, request: Request, prepared: Prepared) -> Denoising:
        solver = multistep.start(prepared.schedule, initial_noise(request.latent_shape, request.seed))
        return Denoising(prepared.phases, prepared.schedule, solver)

    def preview(self, request: Request, prepared: Prepared) -> Preview | None:
        """None for a scheduler that predicts the noise instead of the clean latents."""
        return multistep.first_frame if multistep.predicts_clean(prepared.scheduler) else None

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        return request.latent_shape

    def steps(self, request: Request, prepared: Prepared) -> Sequence[tuple[str, int]]:
        return [(phase.component, phase.steps) for phase in prepared.phases]

    def decoding(
        self, mesh: Mesh, config: Config, decoder: Any, latent_shape: Any, size: PixelSize
    ) -> Decoding:
        split = layout.pixels(mesh, latent_shape)
        return decoding_turns(decoder, config, latent_shape), layout.frames(split), split
