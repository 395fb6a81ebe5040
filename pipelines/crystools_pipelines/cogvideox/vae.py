"""The VAE's decoder, two latent frames at a time: two programs, however many frames there are.

The decoder is causal: each of its convolutions needs the last two frames of its own input. Diffusers decodes
two latent frames a turn, in the first turn the odd one as well, and norms see one turn: so must we.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSafeConv3d
from jax.sharding import NamedSharding

from crystools_pipelines.cogvideox import flops
from crystools_pipelines.runtime.errors import CheckpointError
from crystools_pipelines.runtime.functional import call
from crystools_pipelines.runtime.stages import FLOAT32_BYTES, StepCost, Turn
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
        return TurnDecoder(_undivided(AutoencoderKLCogVideoX.from_config(config).eval()))


def _undivided(vae: AutoencoderKLCogVideoX) -> AutoencoderKLCogVideoX:
    """Its convolutions over all frames at once: diffusers takes few at a time where many would be too much."""
    for module in vae.modules():
        if isinstance(module, CogVideoXSafeConv3d):
            module.__class__ = torch.nn.Conv3d
    return vae


def turns(latent_frames: int) -> list[int]:
    """How many latent frames each turn decodes."""
    if latent_frames == 1:
        return [1]
    return [TURN + latent_frames % TURN] + [TURN] * (latent_frames // TURN - 1)


def decoding_turns(
    decoder: TurnDecoder,
    config: flops.Config,
    latent_shape: tuple[int, ...],
    padding_frames: int,
    everywhere: NamedSharding,
) -> list[Turn]:
    """The turns over latents `[1, frames, channels, height, width]`, less the padding in front.

    `everywhere` is the sharding of what every device holds whole: in a turn, the weights.

    Each gives video frames, float32 `[1 to 9, 8 height, 8 width, 3]` in 0..1.
    """
    _, count, _, height, width = latent_shape
    start, decoding = padding_frames, []
    for frames in turns(count - padding_frames):
        first = start == padding_frames
        cost = StepCost(
            flops.vae_turn_flops(config, frames, height, width),
            flops.vae_turn_bytes(config, frames, height, width, FLOAT32_BYTES, first=first),
        )
        decoding.append(Turn(partial(_decode_turn, decoder, everywhere, frames), start, cost))
        start += frames
    return decoding


def _decode_turn(
    decoder: TurnDecoder,
    everywhere: NamedSharding,
    count: int,
    weights: State,
    latents: jax.Array,
    start: jax.Array,
    cache: Cache | None,
) -> tuple[jax.Array, Cache, jax.Array]:
    """The video frames of `count` latent ones, the cache for the next, and whether the frames are finite."""
    weights = jax.lax.with_sharding_constraint(weights, everywhere)
    turn = jax.lax.dynamic_slice_in_dim(latents, start, count, axis=1)
    video, cache = call(decoder, weights, jnp.swapaxes(turn, 1, 2), cache)
    frames = jnp.clip(video[0] / 2 + 0.5, 0, 1)
    return jnp.transpose(frames, (1, 2, 3, 0)), cache, jnp.isfinite(video).all()
