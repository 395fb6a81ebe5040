"""Attention over a mesh: the one place that knows which kernel runs where.

On a TPU our own kernel, or tokamax's splash attention for what it does not take; on a GPU cuDNN's flash
attention, elsewhere plain XLA. In every case only true keys enter the softmax.

Heads lie side by side, `[batch, tokens, heads * head_dim]`, as projections leave them and take them: sorted
by heads, tensors would have to be copied on the way in and out.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from crystools_pipelines.kernels.flash_kernel import BlockSizes, fits, flash_attention, is_exact, round_up
from crystools_pipelines.kernels.scopes import UNLIKELY
from crystools_pipelines.parallel.defaults import best_blocks
from crystools_pipelines.parallel.mesh import DATA, SEQUENCE, TENSOR
from crystools_tpu.telemetry.chips import ChipSpec, chip_spec

# Our kernel's tiles where the best ones for the chip and its heads are not known.
_SIZES = BlockSizes(query=2048, key=5120, compute=256)
# Of its variant with a running maximum: 2 to 6% slower than with more keys, but a fifth of the compile, which
# every program pays and hardly any uses.
_SHIFTED_SIZES = BlockSizes(query=2048, key=1024, compute=512)
# Splash attention's. A tile of more bytes does not fit into the chip's vector memory.
_BLOCK = 2048
_BLOCK_BYTES = 2048 * 128 * 2
_BLOCK_COMPUTE = 256


class Heads(NamedTuple):
    """What attends: `[batch, tokens, heads * head_dim]` each."""

    query: jax.Array
    key: jax.Array
    value: jax.Array


_Kernel: TypeAlias = Callable[..., jax.Array]
"""`kernel(query, key, value, head_dim, keys)` on one device, of the first `keys` keys."""


def attention(own: Heads, mesh: Mesh, head_dim: int, tokens: int | None = None) -> jax.Array:
    """Softmax attention without a mask of tokens to each other; any number of them.

    Tokens behind the first `tokens` are padding: nothing attends to them.

    The batch is split over the mesh's `data` axis where that divides it, tokens over `sequence`, heads over
    `tensor`, which must divide them. Where `sequence` divides a device's heads too, devices exchange tokens
    for heads and back; else each gathers all keys and values of its heads.
    """
    output, _ = _attention(own, None, mesh, head_dim, tokens)
    return output


def joint_attention(
    own: Heads,
    text: Heads,
    mesh: Mesh,
    head_dim: int,
    tokens: int | None = None,
    text_tokens: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention of all tokens of `own` and `text` to all, otherwise as `attention`.

    Those of `text` are few: every device of `sequence` has them. The first `text_tokens` are no padding.
    """
    output, of_text = _attention(own, text, mesh, head_dim, tokens, text_tokens)
    assert of_text is not None
    return output, of_text


def cross_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mesh: Mesh, head_dim: int
) -> jax.Array:
    """Attention of tokens, split as in `attention`, to the few keys of a text, which every device has."""
    batch, tokens, _ = query.shape
    split, unsplit = _specs(mesh, batch)
    sharded = jax.shard_map(
        partial(_kernel_of(mesh), head_dim=head_dim, keys=key.shape[1]),
        mesh=mesh,
        in_specs=(split, unsplit, unsplit),
        out_specs=split,
        check_vma=False,  # a Pallas call does not say over which axes its output varies
    )
    return sharded(_pad_tokens(query, mesh.shape[SEQUENCE]), key, value)[:, :tokens]


def _attention(
    own: Heads,
    text: Heads | None,
    mesh: Mesh,
    head_dim: int,
    tokens: int | None,
    text_tokens: int | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    batch, padded, width = own.query.shape
    split, unsplit = _specs(mesh, batch)
    heads = width // head_dim // mesh.shape[TENSOR]
    exchange = mesh.shape[SEQUENCE] > 1 and heads % mesh.shape[SEQUENCE] == 0
    sharded = jax.shard_map(
        partial(
            _exchanged if exchange else _gathered,
            tokens=padded if tokens is None else tokens,
            text_tokens=text_tokens,
            kernel=partial(_kernel_of(mesh), head_dim=head_dim),
        ),
        mesh=mesh,
        in_specs=(split, unsplit),
        out_specs=(split, unsplit),
        check_vma=False,
    )
    output, of_text = sharded(Heads(*(_pad_tokens(each, mesh.shape[SEQUENCE]) for each in own)), text)
    return output[:, :padded], of_text


def _specs(mesh: Mesh, batch: int) -> tuple[PartitionSpec, PartitionSpec]:
    """The specs of what is split by tokens, and of what is not."""
    data = DATA if batch % mesh.shape[DATA] == 0 else None
    return PartitionSpec(data, SEQUENCE, TENSOR), PartitionSpec(data, None, TENSOR)


def _exchanged(
    own: Heads, text: Heads | None, *, tokens: int, text_tokens: int | None, kernel: Callable[..., jax.Array]
) -> tuple[jax.Array, jax.Array | None]:
    """On one device: all tokens of a share of its heads."""
    shares = jax.lax.axis_size(SEQUENCE)
    mine = Heads(*map(_tokens_for_heads, own))
    if text is None:
        output = kernel(*mine, keys=tokens)
        return _heads_for_tokens(output), None
    width = text.query.shape[2] // shares
    start = jax.lax.axis_index(SEQUENCE) * width
    theirs = Heads(*(jax.lax.dynamic_slice_in_dim(each, start, width, 2) for each in text))
    output, of_text = _joint(mine, theirs, tokens, text_tokens, kernel)
    return _heads_for_tokens(output), jax.lax.all_gather(of_text, SEQUENCE, axis=2, tiled=True)


def _tokens_for_heads(mine: jax.Array) -> jax.Array:
    """All tokens of a share of the heads, for a share of the tokens of all heads.

    What goes to a device lies together first. Asked to split channels, XLA would put them before the tokens,
    and that copy takes longer than the exchange.
    """
    batch, tokens, width = mine.shape
    shares = jax.lax.axis_size(SEQUENCE)
    parcels = jnp.moveaxis(mine.reshape(batch, tokens, shares, width // shares), 2, 0)
    parcels = jax.lax.all_to_all(parcels, SEQUENCE, 0, 0)
    return jnp.moveaxis(parcels, 0, 1).reshape(batch, shares * tokens, width // shares)


def _heads_for_tokens(mine: jax.Array) -> jax.Array:
    """A share of the tokens of all heads: the inverse of `_tokens_for_heads`."""
    batch, tokens, width = mine.shape
    shares = jax.lax.axis_size(SEQUENCE)
    parcels = jnp.moveaxis(mine.reshape(batch, shares, tokens // shares, width), 1, 0)
    parcels = jax.lax.all_to_all(parcels, SEQUENCE, 0, 0)
    return jnp.concatenate(list(parcels), axis=2)


def _gathered(
    own: Heads, text: Heads | None, *, tokens: int, text_tokens: int | None, kernel: Callable[..., jax.Array]
) -> tuple[jax.Array, jax.Array | None]:
    """On one device: its share of the tokens, of all its heads."""
    query, key, value = own
    if jax.lax.axis_size(SEQUENCE) > 1:
        key, value = (jax.lax.all_gather(each, SEQUENCE, axis=1, tiled=True) for each in (key, value))
    if text is None:
        return kernel(query, key, value, keys=tokens), None
    return _joint(Heads(query, key, value), text, tokens, text_tokens, kernel)


def _joint(
    own: Heads, text: Heads, tokens: int, text_tokens: int | None, kernel: Callable[..., jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Attention of `own` and `text` together; padding of `own` and of `text` is left out of the keys."""
    keys, values = (
        jnp.concatenate([mine[:, :tokens], theirs[:, :text_tokens]], axis=1)
        for mine, theirs in zip(own[1:], text[1:], strict=True)
    )
    queries = jnp.concatenate([own.query, text.query], axis=1)
    output = kernel(queries, keys, values, keys=keys.shape[1])
    own_queries = own.query.shape[1]
    return output[:, :own_queries], output[:, own_queries:]


def _kernel_of(mesh: Mesh) -> _Kernel:
    device = mesh.devices.flat[0]
    if device.platform == "tpu":
        return partial(_tpu, chip=chip_spec(device.device_kind))
    return partial(_by_jax, cudnn=device.platform == "gpu")


def block_sizes(chip: ChipSpec | None, head_dim: int) -> BlockSizes:
    """Our kernel's: the best known for heads of this width on the chip, or the usual ones."""
    best = None if chip is None else best_blocks(chip.name, head_dim)
    return _SIZES if best is None else BlockSizes(**best)


def _tpu(
    query: jax.Array, key: jax.Array, value: jax.Array, head_dim: int, keys: int, *, chip: ChipSpec | None
) -> jax.Array:
    """Our kernel without a running maximum, and once more with one where its sums say that it was wrong."""
    if not fits(query, head_dim):
        return splash_attention(query, key, value, head_dim, keys)
    sizes = block_sizes(chip, head_dim)
    output, sums = flash_attention(query, key, value, head_dim, keys, sizes)

    def again(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        shifted, _ = flash_attention(query, key, value, head_dim, keys, _SHIFTED_SIZES, running_maximum=True)
        return shifted, jnp.array(True)

    # Not by `cond`, for which the output would have to be copied.
    with jax.named_scope(UNLIKELY):
        output, _ = jax.lax.while_loop(lambda carry: ~carry[1], again, (output, is_exact(sums)))
    return output


def splash_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, head_dim: int, keys: int, *, interpret: bool = False
) -> jax.Array:
    """tokamax's TPU kernel on one device; `interpret` runs it without a TPU, slowly.

    Not through tokamax's own door, which asks the default device for the chip where this asks the mesh.
    """
    # Importing it takes a second or more, flax and qwix with it, and hardly a run comes here.
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel as splash
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as splash_mask

    query, key, value = (_by_heads(each, head_dim) for each in (query, key, value))
    query_tokens = query.shape[1]
    config = splash.SplashConfig(
        block_q=_block(query), block_kv=_block(key), block_kv_compute=_BLOCK_COMPUTE, interpret=interpret
    )
    query = _pad_tokens(query / math.sqrt(head_dim), config.block_q)
    key, value = _pad_tokens(key, config.block_kv), _pad_tokens(value, config.block_kv)
    kernel = splash.make_splash_mha_single_device(
        splash_mask.FullMask((query.shape[1], key.shape[1])), config=config
    )
    segments = None
    if key.shape[1] > keys:
        # Padding is a segment of its own, which no query belongs to.
        is_padding = jnp.arange(key.shape[1]) >= keys
        segments = splash.SegmentIds(jnp.zeros(query.shape[1], jnp.int32), is_padding.astype(jnp.int32))
    heads_first = (jnp.swapaxes(tensor, 1, 2) for tensor in (query, key, value))
    output = jax.vmap(partial(kernel, segment_ids=segments))(*heads_first)
    return _side_by_side(jnp.swapaxes(output, 1, 2)[:, :query_tokens])


def _block(tensor: jax.Array) -> int:
    """How many tokens of `[batch, tokens, heads, head_dim]` a tile has: a multiple of `_BLOCK_COMPUTE`."""
    _, tokens, _, head_dim = tensor.shape
    fitting = _BLOCK_BYTES // (head_dim * tensor.dtype.itemsize) // _BLOCK_COMPUTE * _BLOCK_COMPUTE
    return min(_BLOCK, max(_BLOCK_COMPUTE, fitting), round_up(tokens, _BLOCK_COMPUTE))


def _by_jax(
    query: jax.Array, key: jax.Array, value: jax.Array, head_dim: int, keys: int, *, cudnn: bool
) -> jax.Array:
    # Not by way of tokamax: on first use that parses the process's command line as flags of its own.
    heads = (_by_heads(each, head_dim) for each in (query, key[:, :keys], value[:, :keys]))
    can_cudnn = cudnn and query.dtype != jnp.float32
    return _side_by_side(jax.nn.dot_product_attention(*heads, implementation="cudnn" if can_cudnn else "xla"))


def _by_heads(tensor: jax.Array, head_dim: int) -> jax.Array:
    return tensor.reshape(*tensor.shape[:2], -1, head_dim)


def _side_by_side(tensor: jax.Array) -> jax.Array:
    return tensor.reshape(*tensor.shape[:2], -1)


def _pad_tokens(tensor: jax.Array, multiple: int) -> jax.Array:
    padding = round_up(tensor.shape[1], multiple) - tensor.shape[1]
    return jnp.pad(tensor, ((0, 0), (0, padding), *[(0, 0)] * (tensor.ndim - 2)))
