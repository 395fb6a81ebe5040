"""The decoder of AutoencoderKLCogVideoX, few frames at a time: what diffusers' computes, in less memory.

A convolution in time reads two past frames. So each is a loop that norms some frames, writes as many and
hands on the last two: never are all frames of a turn there normed, padded or enlarged. Alike blocks are a
loop as well: one compile for all of them. Channels come last, as XLA's convolutions want them everywhere.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXDecoder3D
from jax.sharding import NamedSharding, PartitionSpec

from crystools_pipelines.interop.lowerings import channel_means

Weights: TypeAlias = Mapping[str, jax.Array]

# The last inputs of each convolution in time, by its name in the first of alike blocks:
# `[alike blocks, 2, height, width, channels]`.
Cache: TypeAlias = dict[str, jax.Array]

_PIXELS = (0, 1, 2)  # the axes of `[frame, height, width, channel]` that a norm sees at once

# The most frames at a time. Each time, two past ones are arranged for the convolution anew.
_FRAMES = 5


def decode(
    decoder: CogVideoXDecoder3D,
    split: NamedSharding,
    weights: Weights,
    latents: jax.Array,
    cache: Cache | None,
) -> tuple[jax.Array, Cache]:
    """Latents `[frames, height, width, channels]` of a turn to its `[frames, 8 height, 8 width, 3]`.

    `weights` has the parameters of `decoder`, which may be on the meta device. `split` is the sharding of all
    that has the shape of frames; weights at work are whole on every device. The first turn has no cache; that
    of the next is returned.
    """
    norm = decoder.norm_out.norm_layer
    turn = _Turn(latents, norm.num_groups, norm.eps, split)
    past = cache or {}
    new: Cache = {}

    def convolve(name: str, inputs: Any, prepare: Callable[[Any], jax.Array]) -> jax.Array:
        last = past[name][0] if name in past else None
        frames, last = turn.convolve(_under(weights, name), inputs, prepare, last)
        new[name] = last[None]
        return frames

    frames = convolve("conv_in", latents, lambda frames: frames)
    for blocks, upsampler in _levels(decoder):
        for _, group in groupby(blocks, lambda block: weights[f"{block}.conv1.conv.weight"].shape):
            alike = list(group)
            names = [f"{alike[0]}.conv1", f"{alike[0]}.conv2"]
            frames, lasts = turn.blocks(
                frames, [_under(weights, block) for block in alike], [past.get(name) for name in names]
            )
            new.update(zip(names, lasts, strict=True))
        if upsampler is not None:
            frames = turn.upsample(_under(weights, upsampler), frames)
            if decoder.get_submodule(upsampler).compress_time:
                frames = _spread(frames, 2 * len(frames) - len(frames) % 2)
    return convolve("conv_out", *turn.norm(_under(weights, "norm_out"), frames)), new


def _levels(decoder: CogVideoXDecoder3D) -> Iterator[tuple[list[str], str | None]]:
    """The names of the blocks that work on frames of one size, and of what enlarges those to the next."""
    blocks = [f"mid_block.resnets.{index}" for index in range(len(decoder.mid_block.resnets))]
    for level, up in enumerate(decoder.up_blocks):
        blocks += [f"up_blocks.{level}.resnets.{index}" for index in range(len(up.resnets))]
        yield blocks, f"up_blocks.{level}.upsamplers.0" if up.upsamplers else None
        blocks = []


def _under(weights: Weights, prefix: str) -> dict[str, jax.Array]:
    """The parameters of a module, by its own names."""
    prefix += "."
    return {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}


def _spread(frames: jax.Array, count: int) -> jax.Array:
    """Each frame as often as makes it `count`; where that is odd, the first stays single."""
    single = count % 2
    times = (count - single) // max(1, len(frames) - single)
    return jnp.concatenate([frames[:single], jnp.repeat(frames[single:], times, axis=0)])


@dataclass(frozen=True)
class _Turn:
    """A turn as all its layers see it. Frames are `[frames, height, width, channels]`."""

    latents: jax.Array
    groups: int
    eps: float
    split: NamedSharding

    def blocks(
        self, frames: jax.Array, alike: list[dict[str, jax.Array]], pasts: list[Any]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Residual blocks one after the other; one that changes the number of channels is alone.

        Also the last inputs of their two convolutions, as `pasts` has those of the turn before.
        """
        if len(alike) == 1:
            alone = [past if past is None else past[0] for past in pasts]
            frames, lasts = self._block(frames, (alike[0], alone))
            return frames, [last[None] for last in lasts]
        stacked = jax.tree.map(lambda *each: jnp.stack(each), *alike)
        frames, lasts = jax.lax.scan(self._block, frames, (stacked, pasts))
        return frames, lasts

    def _block(
        self, frames: jax.Array, layer: tuple[Weights, list[jax.Array | None]]
    ) -> tuple[jax.Array, list[jax.Array]]:
        weights, (past1, past2) = layer
        weights = self._whole(weights)

        def shortcut(inputs: Any) -> jax.Array:
            some: jax.Array = inputs[-1]
            projection = _under(weights, "conv_shortcut")
            return _pointwise(projection["weight"], projection["bias"], some) if projection else some

        inputs, prepare = self.norm(_under(weights, "norm1"), frames)
        hidden, last1 = self.convolve(_under(weights, "conv1"), inputs, prepare, past1)
        inputs, prepare = self.norm(_under(weights, "norm2"), hidden)
        inputs = (*inputs, frames)
        frames, last2 = self.convolve(_under(weights, "conv2"), inputs, prepare, past2, shortcut)
        return frames, [last1, last2]

    def norm(self, weights: Weights, frames: jax.Array) -> tuple[Any, Callable[[Any], jax.Array]]:
        """What makes of `frames` the normed, modulated by the latents and activated ones, and its inputs.

        The modulation is pointwise: that of an enlarged latent is that of the latent, enlarged.
        """
        weights = self._whole(weights)
        mean = channel_means(frames, _PIXELS, self.groups)
        variance = channel_means(jnp.square(frames - mean), _PIXELS, self.groups)
        scale = jax.lax.rsqrt(variance + self.eps) * weights["norm_layer.weight"]
        kernel, bias = (
            jnp.concatenate([weights[f"{name}.conv.{parameter}"] for name in ("conv_y", "conv_b")])
            for parameter in ("weight", "bias")
        )
        modulation = self._split(_pointwise(kernel, bias, self.latents))

        def prepare(inputs: Any) -> jax.Array:
            some, modulation, *_ = inputs
            scale_by, shift_by = jnp.split(_enlarged(modulation, some.shape[1] // modulation.shape[1]), 2, -1)
            normed = (some - mean) * scale + weights["norm_layer.bias"]
            return jax.nn.silu(normed * scale_by + shift_by)

        return (frames, _spread(modulation, len(frames))), prepare

    def convolve(
        self,
        weights: Weights,
        inputs: Any,
        prepare: Callable[[Any], jax.Array],
        past: jax.Array | None,
        residual: Callable[[Any], jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The convolution in time of what `prepare` makes of the frames of `inputs`, plus their residual.

        Also the two frames that are `past` in the next turn. In the first the past is the first frame, twice.
        """
        weights = self._whole(weights)
        kernel = jnp.transpose(weights["conv.weight"], (2, 3, 4, 1, 0))

        def step(past: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
            window = self._split(jnp.concatenate([past, prepare(inputs)]))
            padding = ((0, 0), (1, 1), (1, 1))
            frames = _convolution(window[None], kernel, padding, "DHW")[0] + weights["conv.bias"]
            return window[-2:], frames if residual is None else frames + residual(inputs)

        if past is None:
            first = prepare(jax.tree.map(lambda frames: frames[:1], inputs))
            past = self._split(jnp.concatenate([first, first]))
        last, frames = jax.lax.scan(step, past, jax.tree.map(_some_at_a_time, inputs))
        return self._split(frames.reshape(-1, *frames.shape[2:])), last

    def upsample(self, weights: Weights, frames: jax.Array) -> jax.Array:
        """Frames of twice the height and width."""
        weights = self._whole(weights)
        kernel = jnp.transpose(weights["conv.weight"], (2, 3, 1, 0))

        def of_some(frames: jax.Array) -> jax.Array:
            enlarged = self._split(_enlarged(frames, 2))
            return _convolution(enlarged, kernel, ((1, 1), (1, 1)), "HW") + weights["conv.bias"]

        enlarged = jax.lax.map(of_some, _some_at_a_time(frames))
        return self._split(enlarged.reshape(-1, *enlarged.shape[2:]))

    def _whole(self, weights: Weights) -> Weights:
        everywhere = NamedSharding(self.split.mesh, PartitionSpec())
        whole: Weights = jax.lax.with_sharding_constraint(weights, everywhere)
        return whole

    def _split(self, frames: jax.Array) -> jax.Array:
        split: jax.Array = jax.lax.with_sharding_constraint(frames, self.split)
        return split


def _convolution(
    inputs: jax.Array, kernel: jax.Array, padding: tuple[tuple[int, int], ...], axes: str
) -> jax.Array:
    names = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return jax.lax.conv_general_dilated(inputs, kernel, [1] * len(axes), padding, dimension_numbers=names)


def _some_at_a_time(frames: jax.Array) -> jax.Array:
    """`[times, frames at a time, ...]`"""
    count = max(some for some in range(1, _FRAMES + 1) if len(frames) % some == 0)
    return frames.reshape(-1, count, *frames.shape[1:])


def _pointwise(kernel: jax.Array, bias: jax.Array, frames: jax.Array) -> jax.Array:
    """A 1x1x1 convolution."""
    return jnp.einsum("oc,fhwc->fhwo", kernel[..., 0, 0, 0], frames) + bias


def _enlarged(frames: jax.Array, factor: int) -> jax.Array:
    return jnp.repeat(jnp.repeat(frames, factor, axis=1), factor, axis=2)
