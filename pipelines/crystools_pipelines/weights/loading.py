"""A checkpoint's safetensors, straight to the shards that need them.

One checkpoint tensor at a time passes through host memory, and each is read once.
"""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.interop.folded import stored_axes, stored_shape
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel.layout import at_rest
from crystools_pipelines.parallel.mesh import replicated
from crystools_pipelines.parallel.sharding import Rules, match
from crystools_pipelines.weights.stored import (
    UNQUANTISED,
    check_all_used,
    check_quantised,
    read_headers,
    some,
)
from crystools_pipelines.weights.tensor_files import StoredTensor

State: TypeAlias = dict[str, jax.Array]


@dataclass(frozen=True)
class _Source:
    """The checkpoint tensors that make up a parameter: one a layer where it is stacked, else a single one."""

    names: tuple[str, ...]
    stacked: bool


@dataclass(frozen=True)
class _Parameter:
    """Where a parameter comes from and where it goes; `sharding` is that of one of its tensors.

    `axes` is the order in which it has the axes of what is stored.
    """

    tensors: tuple[StoredTensor, ...]
    axes: tuple[int, ...]
    stacked: bool
    sharding: NamedSharding
    dtype: jnp.dtype[Any]

    @property
    def device_bytes(self) -> int:
        """What it takes on each device."""
        stored = self.tensors[0].shape
        shard = self.sharding.shard_shape(tuple(stored[axis] for axis in self.axes))
        return len(self.tensors) * math.prod(shard) * self.dtype.itemsize

    def load(self) -> jax.Array:
        """The array, read now."""
        if self.stacked:
            return _load_stacked(self.tensors, self.axes, self.sharding, self.dtype)
        return _load_single(self.tensors[0], self.axes, self.sharding, self.dtype)


@dataclass(frozen=True)
class StatePlan:
    """A module's parameters and buffers before they are loaded: how large, from where, to where."""

    parameters: dict[str, _Parameter]
    buffers: dict[str, NDArray[Any]]
    mesh: Mesh

    @property
    def device_bytes(self) -> int:
        """What all of them take on each device of the mesh."""
        return sum(parameter.device_bytes for parameter in self.parameters.values()) + sum(
            buffer.nbytes for buffer in self.buffers.values()
        )

    def load(self) -> State:
        """The arrays. Each tensor of the checkpoint is read once."""
        parameters = {name: parameter.load() for name, parameter in self.parameters.items()}
        everywhere = replicated(self.mesh)
        return parameters | {name: jax.device_put(b, everywhere) for name, b in self.buffers.items()}


def plan_state(
    module: torch.nn.Module,
    folder: Path,
    *,
    mesh: Mesh,
    rules: Rules,
    dtype: str,
    float32: Collection[str] = (),
    leftovers: Collection[str] = (),
) -> StatePlan:
    """The arrays for `module`'s parameters, to be read from `folder`, and for its buffers, which it holds.

    Parameters may be on the meta device, buffers may not. A parameter inside a ScannedLayers is stacked,
    unless its layers share it. Parameters become `dtype`, except those with a component of their name in
    `float32`. Of the files only the headers are read.

    Raises UnmatchedParametersError where `rules` lack some, and CheckpointError where a file is not whole, a
    tensor is missing, quantised or of another shape, or is there for nothing: neither used nor of a name that
    one of `leftovers` matches.
    """
    parameters = dict(module.named_parameters())
    specs = specs_at_rest(module, mesh, rules)
    sources = _sources(module)
    stored = read_headers(folder)
    tensors = dict(stored)
    _resolve_tied(module, tensors)
    unused = _unused(module, sources, stored, leftovers)
    check_quantised(folder, unused)
    _check(folder, parameters, sources, tensors)
    check_all_used(folder, unused)
    planned = {}
    for name, source in sources.items():
        kept = not set(name.split(".")).isdisjoint(float32)
        axes = stored_axes(parameters[name])
        shape = tuple(parameters[name].shape[axes.index(axis)] for axis in range(len(axes)))
        planned[name] = _Parameter(
            tuple(replace(tensors[tensor], shape=shape) for tensor in source.names),
            axes,
            source.stacked,
            NamedSharding(mesh, specs[name]),
            jnp.dtype("float32" if kept else dtype),
        )
    return StatePlan(planned, {name: buffer.numpy() for name, buffer in module.named_buffers()}, mesh)


def specs_at_rest(module: torch.nn.Module, mesh: Mesh, rules: Rules) -> dict[str, PartitionSpec]:
    """How each parameter is kept, one of each stack; `layout.at_rest` where its layers gather it for work."""
    parameters = dict(module.named_parameters())
    specs = match(rules, parameters)
    for prefix, layers in module.named_modules():
        if isinstance(layers, ScannedLayers) and layers.weights is not None:
            for name in set(dict(layers.layer.named_parameters())) - layers.shared:
                name = f"{prefix}.layer.{name}"
                specs[name] = at_rest(mesh, specs[name], parameters[name].shape)
    return specs


def _sources(module: torch.nn.Module) -> dict[str, _Source]:
    sources = {name: _Source((name,), stacked=False) for name, _ in module.named_parameters()}
    for prefix, layers in module.named_modules():
        if isinstance(layers, ScannedLayers):
            for name, _ in layers.layer.named_parameters():
                shared = name in layers.shared
                names = tuple(f"{prefix}.{layer}.{name}" for layer in range(1 if shared else layers.depth))
                sources[f"{prefix}.layer.{name}"] = _Source(names, stacked=not shared)
    return sources


def _resolve_tied(module: torch.nn.Module, tensors: dict[str, StoredTensor]) -> None:
    """Of tied parameters the checkpoint holds one, under any of their names: give it the first name too."""
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
        if name in tensors:
            tensors.setdefault(first[id(parameter)], tensors[name])


def _unused(
    module: torch.nn.Module, sources: dict[str, _Source], stored: Iterable[str], leftovers: Iterable[str]
) -> list[str]:
    """The stored tensors that no parameter comes from, that are no buffer, and may not be left over."""
    known = {name for source in sources.values() for name in source.names}
    known |= {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers()}
    pattern = re.compile("|".join(f"(?:{leftover})" for leftover in leftovers) or r"(?!)")
    return [name for name in stored if name not in known and not pattern.fullmatch(name)]


def _check(
    folder: Path,
    parameters: dict[str, torch.nn.Parameter],
    sources: dict[str, _Source],
    tensors: dict[str, StoredTensor],
) -> None:
    faults = []
    for parameter, source in sources.items():
        wanted = stored_shape(parameters[parameter])
        for name in source.names:
            if name not in tensors:
                faults.append(f"{name} is missing")
            elif (found := tensors[name].shape) != wanted:
                faults.append(f"{name} has shape {list(found)}, not {list(wanted)}")
            elif not tensors[name].is_floating:
                raise CheckpointError(
                    f"{folder} is quantised ({name} is {tensors[name].dtype}); {UNQUANTISED}"
                )
    if faults:
        raise CheckpointError(f"{folder} does not fit its own config.json: {some(faults, '; ')}")


def _load_single(
    source: StoredTensor, axes: tuple[int, ...], sharding: NamedSharding, dtype: jnp.dtype[Any]
) -> jax.Array:
    tensor = source.read().transpose(axes)
    return jax.make_array_from_callback(
        tensor.shape, sharding, lambda index: tensor[index].astype(dtype, copy=False)
    )


def _load_stacked(
    sources: Sequence[StoredTensor], axes: tuple[int, ...], sharding: NamedSharding, dtype: jnp.dtype[Any]
) -> jax.Array:
    shape = (len(sources), *(sources[0].shape[axis] for axis in axes))
    stacked = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
    array = jnp.zeros(shape, dtype, device=stacked)
    for layer, source in enumerate(sources):
        array = _set_layer(array, _load_single(source, axes, sharding, dtype), layer)
        array.block_until_ready()  # so that the host holds one tensor, not a queue of them
    return array


@partial(jax.jit, donate_argnums=0)
def _set_layer(stack: jax.Array, layer: jax.Array, index: int) -> jax.Array:
    updated: jax.Array = jax.lax.dynamic_update_index_in_dim(stack, layer, index, 0)
    return updated
