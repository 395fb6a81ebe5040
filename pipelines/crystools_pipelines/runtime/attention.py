"""Attention over a mesh: the one place that knows which kernel runs where.

On a TPU tokamax's splash attention, on a GPU cuDNN's flash attention, elsewhere plain XLA. In every case only
true keys enter the softmax: where a kernel needs whole blocks, the padding is masked out.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel as splash
from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as splash_mask

from crystools_pipelines.runtime.mesh import DATA, SEQUENCE, TENSOR

# The splash kernel's tile sizes: for heads of 128 in bfloat16 the best of those tried, by the TPU compiler's
# schedule. A tile of more bytes than theirs does not fit into the chip's vector memory.
_BLOCK = 2048
_BLOCK_BYTES = 2048 * 128 * 2
_BLOCK_COMPUTE = 256


def attention(query: jax.Array, key: jax.Array, value: jax.Array, mesh: Mesh) -> jax.Array:
    """Softmax attention without a mask, `[batch, tokens, heads, head_dim]` each; any number of tokens.

    Queries are split over the mesh's `sequence` axis, heads over `tensor`, which must divide them, and the
    batch over `data` where that divides it. Every device sees all the keys of its heads.
    """
    data = DATA if query.shape[0] % mesh.shape[DATA] == 0 else None
    query_spec = PartitionSpec(data, SEQUENCE, TENSOR, None)
    key_spec = PartitionSpec(data, None, TENSOR, None)
    sharded = jax.shard_map(
        _KERNELS.get(mesh.devices.flat[0].platform, _xla),
        mesh=mesh,
        in_specs=(query_spec, key_spec, key_spec),
        out_specs=query_spec,
        check_vma=False,  # a Pallas call does not say over which axes its output varies
    )
    return sharded(_pad_tokens(query, mesh.shape[SEQUENCE]), key, value)[:, : query.shape[1]]


def splash_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """tokamax's TPU kernel on one device; `interpret` runs it without a TPU, slowly.

    Not through tokamax's own door, which asks the default device for the chip where this asks the mesh.
    """
    query_tokens, key_tokens = query.shape[1], key.shape[1]
    config = splash.SplashConfig(
        block_q=_block(query),
        block_kv=_block(key),
        block_kv_compute=_BLOCK_COMPUTE,
        interpret=interpret,
    )
    query = _pad_tokens(query / math.sqrt(query.shape[-1]), config.block_q)
    key, value = _pad_tokens(key, config.block_kv), _pad_tokens(value, config.block_kv)
    kernel = splash.make_splash_mha_single_device(
        splash_mask.FullMask((query.shape[1], key.shape[1])), config=config
    )
    segments = None
    if key.shape[1] > key_tokens:
        # Padding is a segment of its own, which no query belongs to.
        is_padding = jnp.arange(key.shape[1]) >= key_tokens
        segments = splash.SegmentIds(jnp.zeros(query.shape[1], jnp.int32), is_padding.astype(jnp.int32))
    heads_first = (jnp.swapaxes(tensor, 1, 2) for tensor in (query, key, value))
    output = jax.vmap(partial(kernel, segment_ids=segments))(*heads_first)
    return jnp.swapaxes(output, 1, 2)[:, :query_tokens]


def _block(tensor: jax.Array) -> int:
    """How many tokens of `[batch, tokens, heads, head_dim]` a tile has: a multiple of `_BLOCK_COMPUTE`."""
    _, tokens, _, head_dim = tensor.shape
    fitting = _BLOCK_BYTES // (head_dim * tensor.dtype.itemsize) // _BLOCK_COMPUTE * _BLOCK_COMPUTE
    return min(_BLOCK, max(_BLOCK_COMPUTE, fitting), _round_up(tokens, _BLOCK_COMPUTE))


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    if query.dtype == jnp.float32:  # which cuDNN does not do
        return _xla(query, key, value)
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _xla(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    # Not by way of tokamax: on first use that parses the process's command line as flags of its own.
    return jax.nn.dot_product_attention(query, key, value, implementation="xla")


_KERNELS = {"tpu": splash_attention, "gpu": _cudnn}


def _pad_tokens(tensor: jax.Array, multiple: int) -> jax.Array:
    padding = _round_up(tensor.shape[1], multiple) - tensor.shape[1]
    return jnp.pad(tensor, ((0, 0), (0, padding), (0, 0), (0, 0)))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
