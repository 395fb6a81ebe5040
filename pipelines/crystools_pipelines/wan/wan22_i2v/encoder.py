"""The VAE's encoder on the condition's video, which is the image and then blank frames."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import torch
from diffusers import AutoencoderKLWan
from jax.sharding import PartitionSpec as P

from crystools_pipelines.interop.functional import call
from crystools_pipelines.parallel.sharding import Rules
from crystools_pipelines.runtime.stages import Turn
from crystools_pipelines.wan.costs import Config, LatentShape
from crystools_pipelines.wan.request import VAE_TEMPORAL_RATIO
from crystools_pipelines.wan.vae import LatentScale, build_vae, frame_turns, run_causal
from crystools_pipelines.wan.wan22_i2v import costs
from crystools_pipelines.weights.loading import State

VAE_ENCODER: Rules = ((r"(encoder|quant_conv)\..*", P()),)
"""It lies on the mesh as the decoder does."""


class FrameEncoder(torch.nn.Module):
    """The parts of AutoencoderKLWan that encode, under the names that they have there."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.scale = LatentScale(vae)

    def forward(
        self, frames: torch.Tensor, cache: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The latent frame, at its most likely, of the first video frame or the next four; the next cache."""
        moments, cache = run_causal(self.encoder, frames, cache)
        mean, _ = self.quant_conv(moments).chunk(2, dim=1)
        return mean, cache


def build_encoder(folder: Path) -> FrameEncoder:
    """The encoder from the configuration in `folder`, on the meta device."""
    return FrameEncoder(build_vae(folder))


def encoding_turns(encoder: FrameEncoder, config: Config, latent_shape: LatentShape) -> list[Turn]:
    """A turn for each latent frame of `[1, channels, frames, height, width]`.

    The source is the image, `[1, 3, 1, 8 height, 8 width]` in -1..1; blank frames follow it. Each turn gives
    a latent frame, float32 `[1, channels, 1, height, width]` in the scale of the denoiser.
    """
    return frame_turns(partial(_encode_frame, encoder), costs.vae_encode(config, latent_shape))


def _encode_frame(
    encoder: FrameEncoder,
    weights: State,
    image: jax.Array,
    _index: jax.Array,
    cache: list[jax.Array] | None,
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """The image's latent frame or, with a cache, that of the next blank frames."""
    frames = image if cache is None else jnp.repeat(jnp.zeros_like(image), VAE_TEMPORAL_RATIO, axis=2)
    latent, cache = call(encoder, weights, frames, cache)
    return encoder.scale.from_vae(latent), cache, jnp.isfinite(latent).all()
