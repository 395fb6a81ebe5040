"""How long the attention kernel takes with other block sizes, each compiled alone for its schedule."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from crystools_pipelines.kernels.flash_kernel import BlockSizes, flash_attention
from crystools_pipelines.planning.kernel_cycles import kernel_cycles, pallas_calls, traced_alone

_TRIED = tuple(
    BlockSizes(*sizes)
    for sizes in (
        (1024, 2048, 256),
        (1024, 2048, 512),
        (1024, 2048, 1024),
        (2048, 2048, 256),
        (2048, 2048, 1024),
        (2048, 5120, 256),
        (2048, 5120, 512),
        (2048, 5120, 1024),
        (3328, 2816, 256),
        (4096, 2048, 512),
        (5120, 2816, 256),
    )
)
_ITEMSIZE = 2  # of bfloat16


@dataclass(frozen=True)
class AttentionShape:
    """What one device attends: so many tokens to so many, padding included, heads side by side in `lanes`."""

    batch: int
    queries: int
    keys: int
    lanes: int
    head_dim: int


def attention_shapes(programs: Iterable[jax.stages.Traced], head_dim: int) -> set[AttentionShape]:
    """The shapes of the kernel's calls in programs with heads of this width."""
    shapes = set()
    for traced in programs:
        closed: Any = traced.jaxpr
        for equation, _ in pallas_calls(closed.jaxpr, None):
            if equation.params["name"] == flash_attention.__name__:
                avals: list[Any] = [variable.aval for variable in equation.invars]
                (batch, queries, lanes), (_, keys, _) = (aval.shape for aval in avals[:2])
                shapes.add(AttentionShape(batch, queries, keys, lanes, head_dim))
    return shapes


def candidates(shape: AttentionShape) -> list[BlockSizes]:
    """Block sizes to try, the first of those that come to the same blocks."""
    different: dict[BlockSizes, BlockSizes] = {}
    for sizes in _TRIED:
        different.setdefault(sizes.even(shape.queries, shape.keys), sizes)
    return list(different.values())


def attention_cycles(
    shape: AttentionShape, sizes: BlockSizes, device: jax.Device, folder: Path
) -> int | None:
    """TensorCore cycles of one call, by `kernel_cycles.kernel_cycles`; None where it does not compile."""
    kernel = partial(flash_attention, head_dim=shape.head_dim, keys=shape.keys, sizes=sizes)
    query, key = (
        jax.ShapeDtypeStruct((shape.batch, tokens, shape.lanes), jnp.bfloat16)
        for tokens in (shape.queries, shape.keys)
    )
    try:
        cycles = kernel_cycles(traced_alone(kernel, device, (query, key, key)), folder)
    except jax.errors.JaxRuntimeError:  # its blocks do not fit into the vector memory
        return None
    return next(iter(cycles.values()), None)


def moved_bytes(shape: AttentionShape, sizes: BlockSizes) -> int:
    """Bytes a call moves through HBM: queries and outputs once, keys and values for each block of queries."""
    passes = -(-shape.queries // sizes.even(shape.queries, shape.keys).query)
    tokens = 2 * shape.queries + 2 * shape.keys * passes
    return shape.batch * tokens * shape.lanes * _ITEMSIZE
