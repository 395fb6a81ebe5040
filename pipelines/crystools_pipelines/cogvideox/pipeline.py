"""CogVideoX text-to-video: prompts to embeddings, noise to latents, latents to frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from diffusers.utils.torch_utils import randn_tensor
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from crystools_pipelines.cogvideox import flops, scheduler, sharding
from crystools_pipelines.cogvideox.request import (
    LATENT_CHANNELS,
    VAE_SPATIAL_RATIO,
    VAE_TEMPORAL_RATIO,
    CogVideoXRequest,
    latent_frames,
)
from crystools_pipelines.cogvideox.text import MAX_TOKENS, build_text_encoder, encode, tokenize
from crystools_pipelines.cogvideox.transformer import (
    build_transformer,
    check_transformer,
    predict,
    rotary_embedding,
)
from crystools_pipelines.cogvideox.vae import build_decoder, decoding_turns
from crystools_pipelines.parallel import layout
from crystools_pipelines.requests.size import Size as VideoSize
from crystools_pipelines.runtime.denoising import denoising_step
from crystools_pipelines.runtime.job import AnyArray, Job
from crystools_pipelines.runtime.pipeline import Pipeline
from crystools_pipelines.runtime.scheduler import load_scheduler
from crystools_pipelines.runtime.stages import Step, StepCost, guided_cost, run_denoising, run_once, run_turns
from crystools_pipelines.text import t5
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import Size, check_all_heeded, check_classes, check_sizes
from crystools_pipelines.weights.part import Part
from crystools_tpu.telemetry import StageName

DECODER = Part("vae", build_decoder, sharding.VAE, (r"(encoder|quant_conv)\..*",), dtype="float32")


@dataclass(frozen=True)
class Prepared:
    """What a request needs beside the checkpoint's weights."""

    scheduler: scheduler.Scheduler
    rotary: tuple[NDArray[np.float32], NDArray[np.float32]]


class CogVideoX(Pipeline[CogVideoXRequest, Prepared]):
    """CogVideoX's stages."""

    model = "cogvideox-t2v"
    split_components = ("transformer", "text_encoder", "vae")

    def check_vae(self, checkpoint: Checkpoint) -> None:
        check_classes(self.model, checkpoint, ["vae"])
        config = checkpoint.config("vae")
        halvings = len(config["block_out_channels"]) - 1
        sizes = [
            Size("the VAE's latent channels are", config["latent_channels"], LATENT_CHANNELS),
            Size("the VAE makes sizes smaller by", 2**halvings, VAE_SPATIAL_RATIO),
            Size("the VAE makes frames fewer by", config["temporal_compression_ratio"], VAE_TEMPORAL_RATIO),
        ]
        check_sizes(self.model, checkpoint, sizes)

    def check_denoiser(self, checkpoint: Checkpoint) -> None:
        check_classes(self.model, checkpoint, ["transformer", "text_encoder"])
        config, encoder = checkpoint.config("transformer"), checkpoint.config("text_encoder")
        check_transformer(config)
        sizes = [
            Size("the transformer's channels are", config["in_channels"], LATENT_CHANNELS),
            Size("the transformer's text width is", config["text_embed_dim"], encoder["d_model"]),
            Size("the transformer's text tokens are", config["max_text_seq_length"], MAX_TOKENS),
        ]
        check_sizes(self.model, checkpoint, sizes)

    def widths(self, checkpoint: Checkpoint) -> tuple[int, ...]:
        return sharding.widths(*(checkpoint.config(component) for component in self.split_components))

    def embedding_width(self, checkpoint: Checkpoint) -> int:
        width: int = checkpoint.config("transformer")["text_embed_dim"]
        return width

    def prepare(self, request: CogVideoXRequest, checkpoint: Checkpoint) -> Prepared:
        """Raises RequestError for a picture larger than the model knows, too."""
        check_all_heeded(self.model, checkpoint)
        self.check_denoiser(checkpoint)
        loaded: scheduler.Scheduler = load_scheduler(
            checkpoint, CogVideoXDDIMScheduler, CogVideoXDPMScheduler
        )
        loaded.set_timesteps(request.num_inference_steps)
        return Prepared(loaded, rotary_embedding(checkpoint.config("transformer"), request.latent_shape))

    def text_encoder(self, mesh: Mesh) -> Part[Any]:
        return t5.encoder(partial(build_text_encoder, mesh=mesh))

    def denoisers(self, mesh: Mesh, prepared: Prepared) -> list[Part[Any]]:
        return [_transformer(mesh)]

    def decoder(self, mesh: Mesh) -> Part[Any]:
        return DECODER

    def encode(self, job: Job, prompts: Sequence[str]) -> jax.Array:
        encoder = job.load(self.text_encoder(job.mesh))
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

    def denoise(
        self,
        job: Job,
        request: CogVideoXRequest,
        prepared: Prepared,
        embeddings: AnyArray,
        condition: NDArray[np.float32] | None,
    ) -> jax.Array:
        """The final latents `[1, frames, channels, height, width]`; padding frames come first."""
        loaded = job.load(_transformer(job.mesh))
        generator = torch.Generator().manual_seed(request.seed)
        noise = randn_tensor(request.latent_shape, generator=generator, dtype=torch.float32).numpy()
        schedule = scheduler.tabulate(prepared.scheduler)
        guidance = scheduler.guidance_scales(request, schedule)
        solver, schedule, guidance, rotary = job.put(
            (scheduler.start(noise), schedule, guidance, prepared.rotary), job.everywhere
        )
        noises = scheduler.noises(prepared.scheduler, request.latent_shape, generator)
        predicted = partial(predict, loaded.module, job.mesh, job.dtype)
        step = partial(denoising_step, predicted, scheduler.advance)
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

    def without_padding(self, request: CogVideoXRequest, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        return latents[:, request.padding_frames :]

    def decode(self, job: Job, latents: AnyArray, size: VideoSize) -> NDArray[np.float32]:
        decoder = job.load(DECODER)
        padding = latents.shape[1] - latent_frames(size.num_frames)
        split = layout.frames(layout.pixels(job.mesh, latents.shape))
        return run_turns(
            job,
            StageName.VAE_DECODE,
            decoder,
            job.put(latents, job.everywhere),
            decoding_turns(decoder.module, job.checkpoint.config("vae"), latents.shape, padding, split),
            sharding=split,
            cache_sharding=NamedSharding(job.mesh, PartitionSpec(None, *split.spec)),
        )


PIPELINE = CogVideoX()


def _transformer(mesh: Mesh) -> Part[CogVideoXTransformer3DModel]:
    return Part("transformer", partial(build_transformer, mesh=mesh), sharding.TRANSFORMER)


def _step_cost(job: Job, request: CogVideoXRequest) -> StepCost:
    config, rest = job.checkpoint.config("transformer"), request.latent_shape[1:]
    return guided_cost(
        job.mesh,
        request.branches,
        lambda count: flops.transformer_forward_flops(config, (count, *rest), MAX_TOKENS),
        lambda count: flops.transformer_forward_bytes(config, (count, *rest), MAX_TOKENS, job.itemsize),
    )
