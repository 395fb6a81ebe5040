"""The VAE's decoder, two latent frames at a time: two programs, however many frames there are.

The decoder is causal: each of its convolutions needs the last two frames of its own input. Diffusers decodes
two latent frames a turn, in the first turn the odd one as well, and norms see one turn: so must we.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from jax.sharding import Mesh

from crystools_pipelines.cogvideox import sharding
from crystools_pipelines.runtime.errors import CheckpointError
from crystools_pipelines.runtime.functional import call
from crystools_pipelines.runtime.mesh import replicated
from crystools_pipelines.runtime.out_of_memory import with_room
from crystools_pipelines.runtime.weights import State

# One for each convolution, under the decoder's own nested names.
Cache = dict[str, Any]

TURN = 2


class TurnDecoder(torch.nn.Module):
    """The part of AutoencoderKLCogVideoX that decodes, under the name that it has there."""

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.scaling_factor: float = vae.config.scaling_factor

    def forward(self, latents: torch.Tensor, cache: Cache | None) -> tuple[torch.Tensor, Cache]:
        """The latent frames of one turn to their video frames, and the cache for the next turn."""
        frames, cache = self.decoder(latents / self.scaling_factor, conv_cache=cache)
        return frames, _without_pointwise(cache)


def _without_pointwise(cache: Cache) -> Cache:
    """The cache less the entries of convolutions that see one frame: those keep all of it, and never look."""
    return {
        name: _without_pointwise(entry) if isinstance(entry, dict) else entry
        for name, entry in cache.items()
        if name not in ("conv_y", "conv_b")
    }


def build_decoder(folder: Path) -> TurnDecoder:
    """The decoder from the configuration in `folder`, on the meta device.

    Raises CheckpointError for a VAE that has more to it.
    """
    config = AutoencoderKLCogVideoX.load_config(folder)
    if config.get("use_post_quant_conv"):
        raise CheckpointError(f"{folder} has a convolution before the decoder; give a published CogVideoX")
    with torch.device("meta"):
        return TurnDecoder(AutoencoderKLCogVideoX.from_config(config).eval())


def turns(latent_frames: int) -> list[int]:
    """How many latent frames each turn decodes."""
    if latent_frames == 1:
        return [1]
    return [TURN + latent_frames % TURN] + [TURN] * (latent_frames // TURN - 1)


def decode_turns(
    decoder: TurnDecoder, weights: State, latents: jax.Array, padding_frames: int, mesh: Mesh
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Decodes `latents` `[1, frames, channels, height, width]`, less the padding in front, turn by turn.

    Yields video frames, float32 `[1 to 9, 8 height, 8 width, 3]` in 0..1, and whether all of them are finite.
    Everything is compiled before the first.
    """
    count, _, height, width = latents.shape[1:]
    first, *further = turns(count - padding_frames)
    start = np.int32(padding_frames)
    pixels = sharding.pixels(mesh, height, width)
    program = jax.jit(
        partial(_decode_turn, decoder),
        static_argnames="count",
        donate_argnames="cache",
        out_shardings=(sharding.frames(pixels), pixels, replicated(mesh)),
    )
    lowered = program.lower(weights, latents, start, cache=None, count=first)
    decode_first = with_room(lowered.compile)
    _, cache_info, _ = lowered.out_info
    if further:
        cache_like = jax.tree.map(
            lambda entry: jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=pixels), cache_info
        )
        lowered = program.lower(weights, latents, start, cache=cache_like, count=TURN)
        decode_further = with_room(lowered.compile)
    frames, cache, finite = with_room(decode_first, weights, latents, start, cache=None)
    yield frames, finite
    for index in range(padding_frames + first, count, TURN):
        frames, cache, finite = with_room(decode_further, weights, latents, np.int32(index), cache=cache)
        yield frames, finite


def _decode_turn(
    decoder: TurnDecoder,
    weights: State,
    latents: jax.Array,
    start: jax.Array,
    *,
    cache: Cache | None,
    count: int,
) -> tuple[jax.Array, Cache, jax.Array]:
    """The video frames of `count` latent ones, the cache for the next, and whether the frames are finite."""
    turn = jax.lax.dynamic_slice_in_dim(latents, start, count, axis=1)
    video, cache = call(decoder, weights, jnp.swapaxes(turn, 1, 2), cache)
    frames = jnp.clip(video[0] / 2 + 0.5, 0, 1)
    return jnp.transpose(frames, (1, 2, 3, 0)), cache, jnp.isfinite(video).all()
