"""The decoder of AutoencoderKLCogVideoX, frame by frame: what diffusers' modules compute, in less memory.

A convolution in time reads two past frames and the present one. So each is a loop that norms one frame, writes
one and hands on two: never do all frames of a turn lie there normed, padded or enlarged. Alike blocks are a
loop as well, which makes one compile of them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXDecoder3D
from jax.sharding import NamedSharding, PartitionSpec

from crystools_pipelines.runtime.lowerings import channel_means

Weights: TypeAlias = Mapping[str, jax.Array]

# The last inputs of each convolution in time, by its name in the first of alike blocks:
# `[alike blocks, 2, channels, height, width]`.
Cache: TypeAlias = dict[str, jax.Array]


def decode(
    decoder: CogVideoXDecoder3D,
    weights: Weights,
    latents: jax.Array,
    cache: Cache | None,
    *,
    everywhere: NamedSharding,
    pixels: NamedSharding,
) -> tuple[jax.Array, Cache]:
    """Latents `[frames, channels, height, width]` of a turn to its `[frames, 3, 8 height, 8 width]`.

    `weights` has the parameters of `decoder`, which may be on the meta device. The first turn has no cache;
    the next one's is returned. `everywhere` is the sharding of weights at work, `pixels` that of the latents.
    """
    norm = decoder.norm_out.norm_layer
    turn = _Turn(latents, norm.num_groups, norm.eps, everywhere, pixels)
    past = cache or {}
    new: Cache = {}

    def convolve(name: str, inputs: Any, prepare: Callable[[Any], jax.Array]) -> jax.Array:
        last = past[name][0] if name in past else None
        frames, last = turn.convolve(_under(weights, name), inputs, prepare, last)
        new[name] = last[None]
        return frames

    frames = convolve("conv_in", latents, lambda frame: frame)
    for blocks, upsampler in _levels(decoder):
        for _, group in groupby(blocks, lambda block: weights[f"{block}.conv1.conv.weight"].shape):
            alike = list(group)
            names = [f"{alike[0]}.conv1", f"{alike[0]}.conv2"]
            alike_weights = [_under(weights, block) for block in alike]
            frames, lasts = turn.blocks(frames, alike_weights, [past.get(name) for name in names])
            new.update(zip(names, lasts, strict=True))
        if upsampler is not None:
            frames = turn.upsample(_under(weights, upsampler), frames)
            if decoder.get_submodule(upsampler).compress_time:
                frames = _spread(frames, 2 * len(frames) - len(frames) % 2)
    prepare = turn.normed(_under(weights, "norm_out"), frames)
    return convolve("conv_out", (frames, turn.latents_of(frames)), prepare), new


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
    """What all layers see of a turn. Frames are `[frames, channels, height, width]`."""

    latents: jax.Array
    groups: int
    eps: float
    everywhere: NamedSharding
    pixels: NamedSharding

    def blocks(
        self, frames: jax.Array, alike: list[Weights], pasts: list[Any]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Blocks one after the other; only one by itself may change the number of channels."""
        if len(alike) == 1:
            frames, lasts = self.block(frames, (alike[0], [past if past is None else past[0] for past in pasts]))
            return frames, [last[None] for last in lasts]
        stacked = jax.tree.map(lambda *each: jnp.stack(each), *alike)
        return jax.lax.scan(self.block, frames, (stacked, pasts))

    def block(
        self, frames: jax.Array, layer: tuple[Weights, list[jax.Array | None]]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """A residual block: its frames, and the last inputs of its two convolutions, as it takes those before."""
        weights, (past1, past2) = layer
        weights = jax.lax.with_sharding_constraint(weights, self.everywhere)
        latents = self.latents_of(frames)
        prepare = self.normed(_under(weights, "norm1"), frames)
        hidden, last1 = self.convolve(_under(weights, "conv1"), (frames, latents), prepare, past1)

        norm2 = self.normed(_under(weights, "norm2"), hidden)

        def shortcut(inputs: Any) -> jax.Array:
            frame: jax.Array = inputs[2]
            if "conv_shortcut.weight" in weights:
                return _pointwise(_under(weights, "conv_shortcut"), frame)
            return frame

        inputs = (hidden, latents, frames)
        frames, last2 = self.convolve(_under(weights, "conv2"), inputs, norm2, past2, shortcut)
        return frames, [last1, last2]

    def normed(self, weights: Weights, frames: jax.Array) -> Callable[[Any], jax.Array]:
        """Of a frame and its latent, the frame normed as all `frames` are, modulated by the latent, activated.

        The modulation is of the latent and then enlarged, which is that of the enlarged latent.
        """
        mean = _by_pixel(channel_means(frames, (0, 2, 3), self.groups))
        variance = channel_means(jnp.square(frames - mean), (0, 2, 3), self.groups)
        scale = _by_pixel(jax.lax.rsqrt(variance + self.eps) * weights["norm_layer.weight"])
        shift = _by_pixel(weights["norm_layer.bias"])

        def of_frame(inputs: Any) -> jax.Array:
            frame, latent, *_ = inputs
            by, plus = (_pointwise(_under(weights, f"{name}.conv"), latent) for name in ("conv_y", "conv_b"))
            factor = frame.shape[-1] // latent.shape[-1]
            frame = (frame - mean) * scale + shift
            return jax.nn.silu(frame * _enlarged(by, factor) + _enlarged(plus, factor))

        return of_frame

    def convolve(
        self,
        weights: Weights,
        inputs: Any,
        prepare: Callable[[Any], jax.Array],
        past: jax.Array | None,
        residual: Callable[[Any], jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The convolution in time of what `prepare` makes of each frame of `inputs`, plus the frame's residual.

        Also the two frames that are `past` for the next turn; where nothing is past, the first frame was always.
        """
        kernel, bias = jax.lax.with_sharding_constraint(
            (weights["conv.weight"], weights["conv.bias"]), self.everywhere
        )

        def step(past: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
            window = self._split(jnp.concatenate([past, prepare(inputs)[None]]))
            frame = jax.lax.conv_general_dilated(
                window[None],
                kernel,
                (1, 1, 1),
                ((0, 0), (1, 1), (1, 1)),
                dimension_numbers=("NDCHW", "OIDHW", "NDCHW"),
            )[0, 0]
            frame = frame + _by_pixel(bias)
            return window[1:], self._split(frame if residual is None else frame + residual(inputs))

        if past is None:
            first = prepare(jax.tree.map(lambda frames: frames[0], inputs))
            past = self._split(jnp.stack([first, first]))
        last, frames = jax.lax.scan(step, past, inputs)
        return frames, last

    def upsample(self, weights: Weights, frames: jax.Array) -> jax.Array:
        """Frames of twice the height and width."""
        kernel, bias = jax.lax.with_sharding_constraint(
            (weights["conv.weight"], weights["conv.bias"]), self.everywhere
        )

        def of_frame(frame: jax.Array) -> jax.Array:
            enlarged = self._split(_enlarged(frame, 2))
            padding = ((1, 1), (1, 1))
            frame = jax.lax.conv_general_dilated(enlarged[None], kernel, (1, 1), padding)[0]
            return self._split(frame + _by_pixel(bias))

        return jax.lax.map(of_frame, frames)

    def latents_of(self, frames: jax.Array) -> jax.Array:
        """The latent of each frame."""
        return _spread(self.latents, len(frames))

    def _split(self, array: jax.Array) -> jax.Array:
        """`[..., height, width]`, split over the devices."""
        rows, columns = self.pixels.spec[-2:] or (None, None)
        spec = PartitionSpec(*[None] * (array.ndim - 2), rows, columns)
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.pixels.mesh, spec))


def _pointwise(weights: Weights, frame: jax.Array) -> jax.Array:
    """A 1x1x1 convolution of one frame."""
    return jnp.einsum("oc,chw->ohw", weights["weight"][..., 0, 0, 0], frame) + _by_pixel(weights["bias"])


def _by_pixel(channels: jax.Array) -> jax.Array:
    return channels[:, None, None]


def _enlarged(frame: jax.Array, factor: int) -> jax.Array:
    return jnp.repeat(jnp.repeat(frame, factor, axis=-2), factor, axis=-1)
