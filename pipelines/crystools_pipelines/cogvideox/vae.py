"""The VAE's decoder, two latent frames at a time: two programs, however many frames there are.

The decoder is causal: each of its convolutions needs the last two frames of its own input. Diffusers decodes
two latent frames a turn, in the first turn the odd one as well, and norms see one turn: so must we.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import torch
from diffusers import AutoencoderKLCogVideoX
from jax.sharding import NamedSharding

from crystools_pipelines.cogvideox import costs
from crystools_pipelines.cogvideox.decoder import Cache, decode
from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.runtime.stages import FLOAT32_BYTES, StepCost, Turn
from crystools_pipelines.weights.loading import State

TURN = 2


class TurnDecoder(torch.nn.Module):
    """The part of AutoencoderKLCogVideoX that decodes, under the name that it has there."""

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.scaling_factor: float = vae.config.scaling_factor


def build_decoder(folder: Path) -> TurnDecoder:
    """The decoder from the configuration in `folder`, on the meta device.

    Raises CheckpointError for a VAE that has more to it, or other activations.
    """
    config = AutoencoderKLCogVideoX.load_config(folder)
    if config.get("use_post_quant_conv"):
        raise CheckpointError(f"{folder} has a convolution before the decoder; give a published CogVideoX")
    if (activation := config.get("act_fn", "silu")) != "silu":
        raise CheckpointError(f"{folder} is activated by {activation}, not silu; give a published CogVideoX")
    with torch.device("meta"):
        return TurnDecoder(AutoencoderKLCogVideoX.from_config(config).eval())


def turns(latent_frames: int) -> list[int]:
    """How many latent frames each turn decodes."""
    if latent_frames == 1:
        return [1]
    return [TURN + latent_frames % TURN] + [TURN] * (latent_frames // TURN - 1)


def decoding_turns(
    decoder: TurnDecoder,
    config: costs.Config,
    latent_shape: tuple[int, ...],
    padding_frames: int,
    split: NamedSharding,
) -> list[Turn]:
    """The turns over latents `[1, frames, channels, height, width]`, less the padding in front.

    `split` is the sharding of frames `[frame, height, width, channel]`. Each turn gives video frames, float32
    `[1 to 9, 8 height, 8 width, 3]` in 0..1.
    """
    _, count, _, height, width = latent_shape
    start = padding_frames
    decoding: list[Turn] = []
    for frames in turns(count - padding_frames):
        cost = costs.vae_turn(config, frames, height * width, first=not decoding)
        function = partial(_decode_turn, decoder, split, frames)
        decoding.append(Turn(function, StepCost.of(cost, FLOAT32_BYTES), start))
        start += frames
    return decoding


def _decode_turn(
    decoder: TurnDecoder,
    split: NamedSharding,
    count: int,
    weights: State,
    latents: jax.Array,
    start: jax.Array,
    cache: Cache | None,
) -> tuple[jax.Array, Cache, jax.Array]:
    """The video frames of `count` latent ones, the cache for the next, and whether the frames are finite."""
    turn = jax.lax.dynamic_slice_in_dim(latents[0], start, count) / decoder.scaling_factor
    inner = {name.removeprefix("decoder."): array for name, array in weights.items()}
    video, cache = decode(decoder.decoder, split, inner, jnp.transpose(turn, (0, 2, 3, 1)), cache)
    return jnp.clip(video / 2 + 0.5, 0, 1), cache, jnp.isfinite(video).all()
