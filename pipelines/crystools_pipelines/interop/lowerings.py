"""Operators over pixels, lowered so that devices which share the pixels go on sharing them.

torchax's own take the pixels in a row to normalise a group, and gather them to enlarge a picture. XLA's
partitioner can split neither: each device would hold all of them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch


def register(environment: Any) -> None:
    """Puts them in the place of those of `environment`, which is torchax's."""
    aten = torch.ops.aten
    for operator, function in (
        (aten.native_group_norm, native_group_norm),
        (aten.upsample_nearest2d, upsample_nearest),
        (aten.upsample_nearest3d, upsample_nearest),
    ):
        environment.override_op_definition(operator, _on_arrays(environment, function))


def _on_arrays(environment: Any, function: Any) -> Any:
    def operator(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = environment.t2j_iso((args, kwargs))
        return environment.j2t_iso(function(*args, **kwargs))

    return operator


def native_group_norm(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    eps: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`aten.native_group_norm` of `[N, C, ...]`: the normed, and each group's mean and 1 / deviation.

    Only what is left of each channel is sorted into groups: nothing of the input's size changes its shape.
    """

    def by_channel(values: jax.Array) -> jax.Array:
        return values.reshape(-1, C, *[1] * (input.ndim - 2))

    axes = range(2, input.ndim)
    mean = channel_means(input, axes, group)
    centred = input - by_channel(mean)
    reciprocal = jax.lax.rsqrt(channel_means(centred * centred, axes, group) + eps)
    output = centred * by_channel(reciprocal if weight is None else reciprocal * weight)
    if bias is not None:
        output = output + by_channel(bias)
    of_groups = slice(None, None, C // group)
    output, mean, reciprocal = (each.astype(input.dtype) for each in (output, mean, reciprocal))
    return output, mean[:, of_groups], reciprocal[:, of_groups]


def channel_means(array: jax.Array, axes: Sequence[int], groups: int) -> jax.Array:
    """For each channel the mean of its group over `axes`, float32; `axes` leaves the channels as the last."""
    means = jnp.mean(array, axes, dtype=jnp.float32)
    *others, channels = means.shape
    of_groups = jnp.mean(means.reshape(*others, groups, channels // groups), -1)
    return jnp.repeat(of_groups, channels // groups, axis=-1)


def upsample_nearest(input: jax.Array, output_size: Sequence[int], *scales: float | None) -> jax.Array:
    """aten's `upsample_nearest2d` and `3d`, by whole factors.

    Raises NotImplementedError for another factor.
    """
    first = input.ndim - len(output_size)
    for axis, size in enumerate(output_size, start=first):
        factor, rest = divmod(size, input.shape[axis])
        if rest:
            raise NotImplementedError(f"{input.shape[first:]} to {tuple(output_size)}: not by whole factors")
        input = jnp.repeat(input, factor, axis) if factor > 1 else input
    return input
