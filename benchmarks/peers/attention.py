"""Attention as the existing packs do it: a kernel of their own for long videos, plain XLA for short texts.

Facts of their design: scores are computed transposed, keys by queries, with exp2; keys are padded with zeros
to whole blocks and take part in the softmax unmasked; tiles of 3328 queries and 2816 keys, 256 keys at a
time; values and weights in float32; the keys' mean is taken off first. Between the projections and the
kernel queries, keys and values are asked to lie split by tokens, inside it by heads.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

QUERY_BLOCK, KEY_BLOCK, KEYS_AT_ONCE = 3328, 2816, 256

_LEAST = -1e38
_LAST, _FIRST = (((1,), (1,)), ((), ())), (((0,), (0,)), ((), ()))  # contracts the last dimensions, the first


def split_by_tokens(mesh: Mesh) -> NamedSharding:
    """Of `[branch, head, token, channel]`."""
    return NamedSharding(mesh, P("dp", None, "tp", None))


def flash_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mesh: Mesh, dtype: Any = jnp.bfloat16
) -> jax.Array:
    """Attention of `[branch, head, token, channel]` each, by the kernel on `dtype`; heads split over `tp`."""
    heads = P("dp", "tp", None, None)
    local = partial(_local_attention, dtype=dtype)
    sharded = jax.shard_map(local, mesh=mesh, in_specs=heads, out_specs=heads, check_vma=False)
    output: jax.Array = jax.lax.with_sharding_constraint(sharded(query, key, value), split_by_tokens(mesh))
    return output


def plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of `[branch, head, token, channel]` each with all scores in memory, in the tensors' dtype."""
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]))
    return torch.softmax(scores, dim=-1) @ value


def without_mean(key: jax.Array) -> jax.Array:
    """The keys of `[branch, head, token, channel]` without their mean over the tokens."""
    return key - jnp.mean(key, axis=2, keepdims=True)


def _local_attention(query: jax.Array, key: jax.Array, value: jax.Array, dtype: Any) -> jax.Array:
    query = query * (math.log2(math.e) / math.sqrt(query.shape[-1]))

    def one_branch(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        output = _call_kernel(
            _padded(query, QUERY_BLOCK).astype(dtype),
            _padded(key, KEY_BLOCK).astype(dtype),
            _padded(value, KEY_BLOCK).astype(dtype),
        )
        return jnp.swapaxes(output.astype(query.dtype), 1, 2)[:, : query.shape[1]]

    return jax.vmap(one_branch)(query, key, value)


def _padded(tensor: jax.Array, block: int) -> jax.Array:
    return jnp.pad(tensor, ((0, 0), (0, -tensor.shape[1] % block), (0, 0)))


def _call_kernel(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`[head, channel, token]` of `[head, token, channel]` each."""
    (heads, queries, width), keys = query.shape, key.shape[1]
    output: jax.Array = pl.pallas_call(
        _kernel,
        name="peer_attention",
        grid=(heads, queries // QUERY_BLOCK, keys // KEY_BLOCK),
        in_specs=[
            pl.BlockSpec((None, QUERY_BLOCK, width), lambda head, i, j: (head, i, 0)),
            pl.BlockSpec((None, KEY_BLOCK, width), lambda head, i, j: (head, j, 0)),
            pl.BlockSpec((None, KEY_BLOCK, width), lambda head, i, j: (head, j, 0)),
        ],
        out_specs=pl.BlockSpec((None, width, QUERY_BLOCK), lambda head, i, j: (head, 0, i)),
        out_shape=jax.ShapeDtypeStruct((heads, width, queries), query.dtype),
        scratch_shapes=[
            pltpu.VMEM((8, QUERY_BLOCK), jnp.float32),
            pltpu.VMEM((8, QUERY_BLOCK), jnp.float32),
            pltpu.VMEM((width, QUERY_BLOCK), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            flags={"XLA_TPU_FORCE_LP_LLO_SCHEDULER": True},
        ),
    )(query, key, value)
    return output


def _kernel(query: Any, key: Any, value: Any, output: Any, largest: Any, total: Any, weighted: Any) -> None:
    """Softmax attention of one tile of queries over one tile of keys after the other, with running sums."""
    tile = pl.program_id(2)

    @pl.when(tile == 0)
    def start() -> None:
        largest[...] = jnp.full_like(largest, _LEAST)
        total[...] = jnp.zeros_like(total)
        weighted[...] = jnp.zeros_like(weighted)

    def one_chunk(chunk: jax.Array, _: None) -> None:
        rows = pl.ds(chunk * KEYS_AT_ONCE, KEYS_AT_ONCE)
        scores = jax.lax.dot_general(key[rows, :], query[...], _LAST, preferred_element_type=jnp.float32)
        before = largest[...]
        now = jnp.maximum(before, scores.max(axis=0, keepdims=True))
        weights = jnp.exp2(scores - now[:1])
        shrink = jnp.exp2(before - now)
        largest[...] = now
        total[...] = weights.sum(axis=0, keepdims=True) + shrink * total[...]
        values = value[rows, :].astype(jnp.float32)
        weighted[...] = shrink[:1] * weighted[...] + jax.lax.dot_general(values, weights, _FIRST)

    jax.lax.fori_loop(0, KEY_BLOCK // KEYS_AT_ONCE, one_chunk, None, unroll=True)

    @pl.when(tile == pl.num_programs(2) - 1)
    def finish() -> None:
        output[...] = (weighted[...] * (1 / total[:1])).astype(output.dtype)
