"""Softmax attention as one Pallas kernel for TPUs, with or without a running maximum.

A softmax is the same whatever is subtracted from its logits. Usually their maximum is, so that no
exponential overflows, and where keys come block by block everything so far is rescaled whenever the maximum
rises. That is more work than all the rest of the softmax, and seldom needed: float32, and bfloat16 with the
same exponents, hold `2**logit` of any logit up to about 100 either way. So nothing is subtracted at first.
Each query's sum of weights comes back with its output and says whether that was right (`is_exact`).

Logits are computed transposed, keys by queries, so that the weights are what stays in the matrix unit while
the values, which are few, stream past: a product with values as wide as one head would fill half of a v6e's
unit.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128

_TILE_ROWS = 16  # of a tile of bfloat16
_SUM_ROWS = 8  # of a tile of float32
_VMEM_BYTES = 100 * 2**20
_LEAST = -1e30  # of logits: less than any, and the difference of two is no NaN

_CONTRACT_LAST = (((1,), (1,)), ((), ()))
_CONTRACT_INNER = (((1,), (0,)), ((), ()))


@dataclass(frozen=True)
class BlockSizes:
    """Tokens: queries and keys that a step of the kernel's grid works on at most, and keys at a time.

    Each block of keys ends with fewer at a time where `compute` does not divide it.
    """

    query: int
    key: int
    compute: int

    def even(self, queries: int, keys: int) -> "BlockSizes":
        """The kernel's own sizes for so many tokens: as few blocks as will do, all about as full."""
        query, key = _even_block(queries, self.query, LANES), _even_block(keys, self.key, _TILE_ROWS)
        return BlockSizes(query, key, min(self.compute, key))


def fits(query: jax.Array, head_dim: int) -> bool:
    """Whether the kernel takes such queries: bfloat16, and heads that fill whole groups of 128 lanes."""
    whole_heads = LANES % head_dim == 0 or head_dim % LANES == 0
    return query.dtype == jnp.bfloat16 and whole_heads and query.shape[2] % LANES == 0


def flash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    head_dim: int,
    keys: int,
    sizes: BlockSizes,
    *,
    running_maximum: bool = False,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Attention of `[batch, tokens, heads * head_dim]` each to the first `keys` keys; and the weights' sums.

    The output is like `query`; the sums are float32 `[batch, groups of lanes, rows, tokens]`, a head's in
    several rows.
    """
    batch, queries, lanes = query.shape
    width = max(head_dim, LANES)
    heads = width // head_dim
    blocks = sizes.even(queries, keys)
    block_q, block_k = blocks.query, blocks.key
    sum_rows = heads * _SUM_ROWS

    of_queries = pl.BlockSpec((1, block_q, width), lambda batch, group, i, j: (batch, i, group))
    of_keys = pl.BlockSpec((1, block_k, width), lambda batch, group, i, j: (batch, j, group))
    of_sums = pl.BlockSpec((1, 1, sum_rows, block_q), lambda batch, group, i, j: (batch, group, 0, i))
    output: tuple[jax.Array, jax.Array] = pl.pallas_call(
        partial(
            _kernel, head_dim=head_dim, keys=keys, at_a_time=blocks.compute, running_maximum=running_maximum
        ),
        grid=(batch, lanes // width, pl.cdiv(queries, block_q), pl.cdiv(keys, block_k)),
        in_specs=[of_queries, of_keys, of_keys],
        out_specs=[of_queries, of_sums],
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((batch, lanes // width, sum_rows, queries), jnp.float32),
        ],
        scratch_shapes=[
            pltpu.VMEM((width, block_q), jnp.float32),
            pltpu.VMEM((sum_rows, block_q), jnp.float32),
            pltpu.VMEM((sum_rows, block_q), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=_VMEM_BYTES,
        ),
        cost_estimate=pl.CostEstimate(
            flops=4 * batch * queries * keys * lanes,
            transcendentals=batch * queries * keys * lanes // head_dim,
            bytes_accessed=query.dtype.itemsize * batch * lanes * (2 * queries + 2 * keys),
        ),
        interpret=interpret,
        name="flash_attention_shifted" if running_maximum else "flash_attention",
    )(query, key, value)
    return output


def is_exact(sums: jax.Array) -> jax.Array:
    """Whether no weight that matters was lost: a query's largest weight is in its sum, and all are finite.

    What underflows is below 2**-126. Next to a sum of 2**-90 a million such keys do not show in bfloat16.
    """
    return jnp.all((sums > 2.0**-90) & (sums < 2.0**120))


def _kernel(
    query: Any,
    key: Any,
    value: Any,
    output: Any,
    sums: Any,
    weighted: Any,
    weights: Any,
    maxima: Any,
    *,
    head_dim: int,
    keys: int,
    at_a_time: int,
    running_maximum: bool,
) -> None:
    """One block of queries and one of keys; `weighted` and `weights` gather what all blocks of keys add."""
    j = pl.program_id(3)
    _, block_q, _ = query.shape
    _, block_k, width = key.shape
    to_base_2 = math.log2(math.e) / math.sqrt(head_dim)
    left = keys - j * block_k
    in_last_block = (keys - 1) % block_k + 1

    @pl.when(j == 0)
    def begin() -> None:
        weighted[...] = jnp.zeros_like(weighted)
        weights[...] = jnp.zeros_like(weights)
        if running_maximum:
            maxima[...] = jnp.full_like(maxima, _LEAST)

    for start in range(0, block_k, at_a_time):
        compute = min(at_a_time, block_k - start)
        keys_here, values_here = (tensor[0, pl.ds(start, compute), :] for tensor in (key, value))
        may_be_padding = start + compute > in_last_block
        if may_be_padding:  # behind the last key is anything at all, NaN too
            values_here = jnp.where(_rows(values_here) < left - start, values_here, 0)
        values_here = jnp.swapaxes(values_here, 0, 1)
        for head in range(width // head_dim):
            of_head, of_sums = _of(head, head_dim), _of(head, _SUM_ROWS)
            logits = to_base_2 * jax.lax.dot_general(
                keys_here, _only(query[0], head, head_dim), _CONTRACT_LAST, preferred_element_type=jnp.float32
            )
            if may_be_padding:
                logits = jnp.where(_rows(logits) < left - start, logits, _LEAST)
            if running_maximum:
                highest = jnp.maximum(maxima[of_sums], jnp.max(logits, axis=0, keepdims=True))
                shrink = jnp.exp2(maxima[of_sums] - highest)
                maxima[of_sums] = highest
                weights[of_sums] *= shrink
                weighted[of_head] *= shrink[:1]
                logits -= highest[:1]
            exponentials = jnp.exp2(logits)
            weights[of_sums] += exponentials.reshape(-1, _SUM_ROWS, block_q).sum(axis=0)
            weighted[of_head] += jax.lax.dot_general(
                values_here[of_head],
                exponentials.astype(jnp.bfloat16),
                _CONTRACT_INNER,
                preferred_element_type=jnp.float32,
            )

    @pl.when(j == pl.num_programs(3) - 1)
    def end() -> None:
        for head in range(width // head_dim):
            of_head, of_sums = _of(head, head_dim), _of(head, _SUM_ROWS)
            total = weights[of_sums].sum(axis=0, keepdims=True)
            weighted[of_head] /= total
            sums[0, 0, of_sums] = jnp.broadcast_to(total, (_SUM_ROWS, block_q))
        output[0] = jnp.swapaxes(weighted[...].astype(output.dtype), 0, 1)


def _of(head: int, rows: int) -> slice:
    return slice(head * rows, (head + 1) * rows)


def _rows(tensor: jax.Array) -> jax.Array:
    """The number of each element's row."""
    return jax.lax.broadcasted_iota(jnp.int32, tensor.shape, 0)


def _only(lanes: jax.Array, head: int, head_dim: int) -> jax.Array:
    """Zero but for one head's lanes, where several share the row."""
    if lanes.shape[1] == head_dim:
        return lanes
    of_lane = jax.lax.broadcasted_iota(jnp.int32, lanes.shape, 1) // head_dim
    return jnp.where(of_lane == head, lanes, 0)


def _even_block(tokens: int, most: int, multiple: int) -> int:
    """Tokens of a block: as few blocks of at most `most` as will do, all about as full."""
    return round_up(pl.cdiv(tokens, pl.cdiv(tokens, most)), multiple)


def round_up(number: int, multiple: int) -> int:
    """The least multiple that is no less than the number."""
    return -(-number // multiple) * multiple
