"""The VAE's encoder on the condition's video, which is the image and then blank frames."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.runtime.functional import call
from crystools_pipelines.runtime.mesh import replicated
from crystools_pipelines.runtime.weights import State
from crystools_pipelines.wan21.request import VAE_SPATIAL_RATIO, VAE_TEMPORAL_RATIO
from crystools_pipelines.wan21.sharding import pixels
from crystools_pipelines.wan21.vae import build_vae, frame_by_frame, run_causal


class FrameEncoder(torch.nn.Module):
    """The parts of AutoencoderKLWan that encode, under the names that they have there."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.latents_mean = list(vae.config.latents_mean)
        self.latents_std = list(vae.config.latents_std)

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


def encode_frames(
    encoder: FrameEncoder, weights: State, image: NDArray[np.float32], count: int, mesh: Mesh
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Encodes `image` `[1, 3, 1, height, width]` in -1..1 and the blank frames after it.

    Yields each of `count` latent frames, float32 `[1, channels, 1, height / 8, width / 8]` in the scale of
    the denoiser, and whether all of it is finite. Everything is compiled before the first.
    """
    height, width = (size // VAE_SPATIAL_RATIO for size in image.shape[3:])
    split = pixels(mesh, height, width)
    program = jax.jit(
        partial(_encode_frame, encoder),
        donate_argnames="cache",
        out_shardings=(replicated(mesh), split, replicated(mesh)),
    )
    yield from frame_by_frame(program, weights, jax.device_put(image, split), count, split)


def _encode_frame(
    encoder: FrameEncoder,
    weights: State,
    image: jax.Array,
    _index: jax.Array,
    *,
    cache: list[jax.Array] | None,
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """The image's latent frame or, with a cache, that of the next blank frames."""
    channels = (1, -1, 1, 1, 1)
    mean = jnp.asarray(encoder.latents_mean).reshape(channels)
    deviation = jnp.asarray(encoder.latents_std).reshape(channels)
    frames = image if cache is None else jnp.repeat(jnp.zeros_like(image), VAE_TEMPORAL_RATIO, axis=2)
    latent, cache = call(encoder, weights, frames, cache)
    return (latent - mean) / deviation, cache, jnp.isfinite(latent).all()
