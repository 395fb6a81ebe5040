"""The VAE, one latent frame at a time: two programs, however many frames there are.

It is causal. Each of its convolutions needs the last two frames of its own input, which diffusers carries in
a list. The first latent frame stands for one video frame and fills that list; each further one for four.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import CACHE_T, WanCausalConv3d
from jax.sharding import Mesh, NamedSharding

from crystools_pipelines.runtime.errors import CheckpointError
from crystools_pipelines.runtime.functional import call
from crystools_pipelines.runtime.mesh import replicated
from crystools_pipelines.runtime.out_of_memory import with_room
from crystools_pipelines.runtime.weights import State
from crystools_pipelines.wan21 import sharding


class FrameDecoder(torch.nn.Module):
    """The parts of AutoencoderKLWan that decode, under the names that they have there."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = vae.decoder
        self.latents_mean = list(vae.config.latents_mean)
        self.latents_std = list(vae.config.latents_std)

    def forward(
        self, latent: torch.Tensor, cache: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One latent frame to its video frames, `[1, 3, 1 or 4, height, width]`, and the next frame's cache.

        Without a cache it is the first frame. A cache entry is always two frames long.
        """
        latent = self.post_quant_conv(latent)
        return run_causal(self.decoder, latent, cache, first_chunk=cache is None)


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


def decode_frames(
    decoder: FrameDecoder, weights: State, latents: jax.Array, mesh: Mesh
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Decodes `latents` `[1, channels, frames, height, width]`, as the denoiser left them, frame by frame.

    Yields video frames, float32 `[1 or 4, 8 height, 8 width, 3]` in 0..1, and whether all of them are finite.
    Everything is compiled before the first.
    """
    count, height, width = latents.shape[2:]
    pixels = sharding.pixels(mesh, height, width)
    program = jax.jit(
        partial(_decode_frame, decoder),
        donate_argnames="cache",
        out_shardings=(sharding.frames(pixels), pixels, replicated(mesh)),
    )
    yield from frame_by_frame(program, weights, latents, count, pixels)


def frame_by_frame(
    program: Any, weights: State, source: jax.Array, count: int, pixels: NamedSharding
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """What the jitted `program(weights, source, index, cache=...)` makes of each of `count` latent frames.

    `program` returns its output, the next cache and whether the output is finite; `pixels` is the cache's
    sharding. Everything is compiled before the first.
    """
    lowered = program.lower(weights, source, np.int32(0), cache=None)
    first = with_room(lowered.compile)
    _, cache_info, _ = lowered.out_info
    if count > 1:
        cache_like = [jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=pixels) for entry in cache_info]
        further = with_room(program.lower(weights, source, np.int32(0), cache=cache_like).compile)
    output, cache, finite = with_room(first, weights, source, np.int32(0), cache=None)
    yield output, finite
    for index in range(1, count):
        output, cache, finite = with_room(further, weights, source, np.int32(index), cache=cache)
        yield output, finite


def _decode_frame(
    decoder: FrameDecoder,
    weights: State,
    latents: jax.Array,
    index: jax.Array,
    *,
    cache: list[jax.Array] | None,
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """The video frames of one latent frame, the cache for the next, and whether the frames are finite."""
    channels = (1, -1, 1, 1, 1)
    mean = jnp.asarray(decoder.latents_mean).reshape(channels)
    deviation = jnp.asarray(decoder.latents_std).reshape(channels)
    latent = jax.lax.dynamic_slice_in_dim(latents, index, 1, axis=2) * deviation + mean
    video, cache = call(decoder, weights, latent, cache)
    frames = jnp.clip(video[0] / 2 + 0.5, 0, 1)
    return jnp.transpose(frames, (1, 2, 3, 0)), cache, jnp.isfinite(video).all()
