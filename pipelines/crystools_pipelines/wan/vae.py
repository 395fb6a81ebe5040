"""The VAE, one latent frame at a time: two programs each way, however many frames there are.

It is causal. Each of its convolutions needs the last two frames of its own input, which diffusers carries in
a list. The first latent frame stands for one video frame and fills that list; each further one for four.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import CACHE_T, WanCausalConv3d

from crystools_pipelines.costs import Cost
from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.interop.functional import call
from crystools_pipelines.runtime.stages import FLOAT32_BYTES, StepCost, Turn
from crystools_pipelines.wan import costs
from crystools_pipelines.weights.loading import State


class FrameDecoder(torch.nn.Module):
    """The parts of AutoencoderKLWan that decode, under the names that they have there."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = vae.decoder
        self.scale = LatentScale(vae)

    def forward(
        self, latent: torch.Tensor, cache: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One latent frame to its video frames, `[1, 3, 1 or 4, height, width]`, and the next frame's cache.

        Without a cache it is the first frame. A cache entry is always two frames long.
        """
        latent = self.post_quant_conv(latent)
        return run_causal(self.decoder, latent, cache, first_chunk=cache is None)


class LatentScale:
    """Between the VAE's latents and the denoiser's, `[1, channels, ...]`, which are normalised by channel."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._mean = list(vae.config.latents_mean)
        self._deviation = list(vae.config.latents_std)

    def to_vae(self, latents: jax.Array) -> jax.Array:
        """The denoiser's latents in the scale of the VAE."""
        return latents * _by_channel(self._deviation) + _by_channel(self._mean)

    def from_vae(self, latents: jax.Array) -> jax.Array:
        """The VAE's latents in the scale of the denoiser."""
        return (latents - _by_channel(self._mean)) / _by_channel(self._deviation)


def _by_channel(values: list[float]) -> jax.Array:
    return jnp.asarray(values).reshape(1, -1, 1, 1, 1)


def run_causal(
    module: torch.nn.Module, chunk: torch.Tensor, cache: list[torch.Tensor] | None, **kwargs: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """diffusers' encoder or decoder on the next `chunk` of frames, and the cache for the one after.

    Without a cache it is the first. The past that the first lacks becomes zeros, which is how it is padded.
    """
    slots = sum(isinstance(part, WanCausalConv3d) for part in module.modules())
    entries: list[torch.Tensor | str | None] = [None] * slots if cache is None else list(cache)
    output = module(chunk, feat_cache=entries, feat_idx=[0], **kwargs)
    cache = []
    for entry in entries:
        if entry is None:  # a slot of a convolution that is not causal in time
            continue
        if isinstance(entry, str):
            # The temporal upsampling sat out the first frame. Its input has the shape of the entry before it.
            entry = torch.zeros_like(cache[-1])
        elif entry.shape[2] < CACHE_T:
            entry = torch.cat([torch.zeros_like(entry), entry], dim=2)
        cache.append(entry)
    return output, cache


def build_vae(folder: Path) -> AutoencoderKLWan:
    """The whole VAE from the configuration in `folder`, on the meta device.

    Raises CheckpointError for the VAE of another generation.
    """
    config = AutoencoderKLWan.load_config(folder)
    if config.get("patch_size") is not None:
        raise CheckpointError(f"{folder} is the VAE of Wan2.2 5B; give a Wan2.1 checkpoint")
    with torch.device("meta"):
        return AutoencoderKLWan.from_config(config).eval()


def build_decoder(folder: Path) -> FrameDecoder:
    """The decoder from the configuration in `folder`, on the meta device."""
    return FrameDecoder(build_vae(folder))


def decoding_turns(
    decoder: FrameDecoder, config: costs.Config, latent_shape: costs.LatentShape
) -> list[Turn]:
    """A turn for each latent frame of `[1, channels, frames, height, width]`, as the denoiser left them.

    It gives the video frames, float32 `[1 or 4, 8 height, 8 width, 3]` in 0..1.
    """
    return frame_turns(partial(_decode_frame, decoder), costs.vae_decode(config, latent_shape))


def frame_turns(function: Callable[..., Any], frames: Iterable[Cost]) -> list[Turn]:
    """A turn of `function` for each latent frame, which costs so much."""
    return [Turn(function, StepCost.of(cost, FLOAT32_BYTES), index) for index, cost in enumerate(frames)]


def _decode_frame(
    decoder: FrameDecoder,
    weights: State,
    latents: jax.Array,
    index: jax.Array,
    cache: list[jax.Array] | None,
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """The video frames of one latent frame, the cache for the next, and whether the frames are finite."""
    latent = decoder.scale.to_vae(jax.lax.dynamic_slice_in_dim(latents, index, 1, axis=2))
    video, cache = call(decoder, weights, latent, cache)
    frames = jnp.clip(video[0] / 2 + 0.5, 0, 1)
    return jnp.transpose(frames, (1, 2, 3, 0)), cache, jnp.isfinite(video).all()
