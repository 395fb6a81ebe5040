"""Queries and keys as attention takes them: normed, and their pairs of channels turned by rotary tables.

Heads lie side by side. On a TPU this is a Pallas kernel: XLA would sort the channels by heads and pairs
first, and each of these copies takes as long as all the rest.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec

from crystools_pipelines.kernels.flash_kernel import LANES, round_up
from crystools_pipelines.parallel.mesh import DATA, SEQUENCE, TENSOR

_BLOCK_TOKENS = 1024

Tables: TypeAlias = tuple[jax.Array, jax.Array]
"""Cosines and sines `[tokens, head_dim]`, each frequency twice, for adjacent channels."""


@dataclass(frozen=True)
class Norm:
    """How heads are normed: all together or each by itself; to a root mean square of 1, centred or not."""

    over: Literal["all heads", "head"]
    eps: float
    centred: bool = False


def rotated(
    tensor: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    norm: Norm,
    tables: Tables | None,
    mesh: Mesh,
    head_dim: int,
) -> jax.Array:
    """`[batch, tokens, heads * head_dim]` normed in float32 and turned; tokens split over `sequence`.

    `weight` and `bias` are `[heads * head_dim]` or, of a norm of each head, `[head_dim]`. Without `tables`
    nothing is turned. Tokens that the tables have no row for are padding.
    """
    batch, tokens, width = tensor.shape
    data = DATA if batch % mesh.shape[DATA] == 0 else None
    sequence = SEQUENCE if tokens % mesh.shape[SEQUENCE] == 0 else None
    lanes = PartitionSpec(data, sequence, TENSOR)
    if norm.over == "all heads":
        squares = jnp.square(tensor.astype(jnp.float32))
        factor = jax.lax.rsqrt(jnp.mean(squares, axis=-1, keepdims=True) + norm.eps)
    else:
        factor = jnp.ones((), jnp.float32)
    of_factor = PartitionSpec(data, sequence, None) if factor.ndim else PartitionSpec()
    of_weight = PartitionSpec(TENSOR) if weight.shape[0] == width else PartitionSpec()
    local = _pallas if mesh.devices.flat[0].platform == "tpu" else _plain
    sharded = jax.shard_map(
        partial(local, norm=norm, head_dim=head_dim),
        mesh=mesh,
        in_specs=(lanes, of_factor, of_weight, of_weight, PartitionSpec(sequence, None)),
        out_specs=lanes,
        check_vma=False,  # a Pallas call does not say over which axes its output varies
    )
    bias = jnp.zeros_like(weight) if bias is None else bias
    if tables is not None:
        cosines, sines = tables
        padding = ((0, tokens - cosines.shape[0]), (0, 0))
        tables = jnp.pad(cosines, padding), jnp.pad(sines, padding)
    output: jax.Array = sharded(tensor, factor, weight, bias, tables)
    return output


def _plain(
    tensor: jax.Array,
    factor: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    tables: Tables | None,
    *,
    norm: Norm,
    head_dim: int,
) -> jax.Array:
    heads = (tensor.astype(jnp.float32) * factor).reshape(*tensor.shape[:2], -1, head_dim)
    if norm.over == "head":
        if norm.centred:
            heads = heads - jnp.mean(heads, axis=-1, keepdims=True)
        heads = heads * jax.lax.rsqrt(jnp.mean(jnp.square(heads), axis=-1, keepdims=True) + norm.eps)
    heads = heads * weight.reshape(-1, head_dim) + bias.reshape(-1, head_dim)
    if tables is not None:
        cosines, sines = (table[:, None] for table in tables)
        first, second = heads[..., 0::2], heads[..., 1::2]
        partners = jnp.stack((-second, first), axis=-1).reshape(heads.shape)
        heads = heads * cosines + partners * sines
    return heads.reshape(tensor.shape).astype(tensor.dtype)


def _pallas(
    tensor: jax.Array,
    factor: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    tables: Tables | None,
    *,
    norm: Norm,
    head_dim: int,
    interpret: bool = False,
) -> jax.Array:
    batch, tokens, width = tensor.shape
    if width % LANES or max(head_dim, LANES) % min(head_dim, LANES):
        return _plain(tensor, factor, weight, bias, tables, norm=norm, head_dim=head_dim)
    lanes = max(head_dim, LANES)
    repeats = lanes // head_dim
    weight, bias = (
        jnp.tile(each, 1 if each.shape[0] == width else width // head_dim)[None] for each in (weight, bias)
    )
    factor = jnp.broadcast_to(factor, (batch, tokens, 1))
    block = min(_BLOCK_TOKENS, round_up(tokens, 16))
    operands = [tensor, factor, weight.astype(jnp.float32), bias.astype(jnp.float32)]
    specs = [
        pl.BlockSpec((1, block, lanes), lambda batch, i, group: (batch, i, group)),
        pl.BlockSpec((1, block, 1), lambda batch, i, group: (batch, i, 0)),
        pl.BlockSpec((1, lanes), lambda batch, i, group: (0, group)),
        pl.BlockSpec((1, lanes), lambda batch, i, group: (0, group)),
    ]
    if tables is not None:
        operands += [jnp.tile(table, (1, repeats)) for table in tables]
        specs += [pl.BlockSpec((block, lanes), lambda batch, i, group: (i, 0))] * 2
    output: jax.Array = pl.pallas_call(
        partial(_kernel, norm=norm, head_dim=head_dim),
        grid=(batch, pl.cdiv(tokens, block), width // lanes),
        in_specs=specs,
        out_specs=pl.BlockSpec((1, block, lanes), lambda batch, i, group: (batch, i, group)),
        out_shape=jax.ShapeDtypeStruct(tensor.shape, tensor.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=2 * tensor.nbytes),
        interpret=interpret,
        name="norm_and_rotate",
    )(*operands)
    return output


def _kernel(
    tensor: Any, factor: Any, weight: Any, bias: Any, *tables_and_output: Any, norm: Norm, head_dim: int
) -> None:
    *tables, output = tables_and_output
    heads = tensor[0].astype(jnp.float32) * factor[0]
    lane = jax.lax.broadcasted_iota(jnp.int32, heads.shape, 1)
    if norm.over == "head":
        if norm.centred:
            heads = heads - _head_means(heads, lane, head_dim)
        heads = heads * jax.lax.rsqrt(_head_means(jnp.square(heads), lane, head_dim) + norm.eps)
    heads = heads * weight[...] + bias[...]
    if tables:
        cosines, sines = tables
        before, behind = (pltpu.roll(heads, shift, 1) for shift in (heads.shape[1] - 1, 1))
        partners = jnp.where(lane % 2 == 0, -before, behind)
        heads = heads * cosines[...] + partners * sines[...]
    output[0] = heads.astype(output.dtype)


def _head_means(values: jax.Array, lane: jax.Array, head_dim: int) -> jax.Array:
    """For each lane the mean of its head's."""
    means = jnp.zeros_like(values)
    for first in range(0, values.shape[1], head_dim):
        of_head = (lane >= first) & (lane < first + head_dim)
        total = jnp.sum(jnp.where(of_head, values, 0), axis=1, keepdims=True)
        means = jnp.where(of_head, total / head_dim, means)
    return means
