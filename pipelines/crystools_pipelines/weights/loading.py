"""A source's tensors, straight to the shards that need them.

One at a time passes through host memory, and each is read once.
"""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import torch
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.interop.folded import stored_axes, stored_shape
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.weights.shapes import Shapes, device_bytes
from crystools_pipelines.weights.source import Tensor, WeightSource
from crystools_pipelines.weights.stored import UNQUANTISED, check_all_used, check_quantised, first_few

State: TypeAlias = dict[str, jax.Array]
Merged: TypeAlias = Mapping[str, tuple[Hashable, ...]]
"""By parameter, what is merged into each of its tensors."""


@dataclass(frozen=True)
class _Parameter:
    """The tensors that make up a parameter, one a layer where it is stacked, and what they become.

    `folded` is the shape of what is stored, blocks told apart; `axes` the order in which the parameter has
    the axes of that.
    """

    tensors: tuple[Tensor, ...]
    folded: tuple[int, ...]
    axes: tuple[int, ...]
    target: jax.ShapeDtypeStruct

    @property
    def merged(self) -> tuple[Hashable, ...]:
        """What is merged into each of the tensors."""
        return tuple(tensor.merged for tensor in self.tensors)

    def load(self) -> jax.Array:
        """The array, read now."""
        if not self._is_stacked:
            return self._read(self.tensors[0], self._sharding)
        array = jnp.zeros(self.target.shape, self.target.dtype, device=self._sharding)
        return self._with_layers(array, range(len(self.tensors)))

    def update(self, array: jax.Array, layers: Sequence[int]) -> jax.Array:
        """`array`, of which these layers, or it if it is not stacked, are read anew. It is used up."""
        if self._is_stacked:
            return self._with_layers(array, layers)
        array.delete()  # there may be no room for both
        return self._read(self.tensors[0], self._sharding)

    @property
    def _is_stacked(self) -> bool:
        return len(self.target.shape) > len(self.folded)

    @property
    def _sharding(self) -> NamedSharding:
        return cast(NamedSharding, self.target.sharding)

    def _with_layers(self, array: jax.Array, layers: Iterable[int]) -> jax.Array:
        of_layer = NamedSharding(self._sharding.mesh, PartitionSpec(*self._sharding.spec[1:]))
        for layer in layers:
            array = _set_layer(array, self._read(self.tensors[layer], of_layer), layer)
            array.block_until_ready()  # so that the host holds one tensor, not a queue of them
        return array

    def _read(self, tensor: Tensor, sharding: NamedSharding) -> jax.Array:
        read = tensor.read().reshape(self.folded).transpose(self.axes)
        return jax.make_array_from_callback(
            read.shape, sharding, lambda index: read[index].astype(self.target.dtype, copy=False)
        )


@dataclass(frozen=True)
class StatePlan:
    """A module's parameters and buffers before they are loaded: what they will be, and from where."""

    shapes: Shapes
    parameters: dict[str, _Parameter]
    buffers: dict[str, NDArray[Any]]

    @property
    def device_bytes(self) -> int:
        """Bytes that all of them take on each device of the mesh."""
        return sum(map(device_bytes, self.shapes.values()))

    def load(self) -> State:
        """The arrays. Each tensor of the source is read once."""
        parameters = {name: parameter.load() for name, parameter in self.parameters.items()}
        return parameters | {
            name: jax.device_put(buffer, self.shapes[name].sharding) for name, buffer in self.buffers.items()
        }

    @property
    def merged(self) -> Merged:
        """What is merged into the tensors that make up each parameter."""
        return {name: parameter.merged for name, parameter in self.parameters.items()}

    def update(self, state: State, merged: Merged) -> int:
        """Makes of `state`, in which `merged` is, what `load` would; says how many tensors were read for it.

        Where it raises, `state` is of no more use.
        """
        count = 0
        for name, parameter in self.parameters.items():
            pairs = zip(parameter.merged, merged[name], strict=True)
            if changed := [layer for layer, (wanted, found) in enumerate(pairs) if wanted != found]:
                state[name] = parameter.update(state[name], changed)
                count += len(changed)
        return count


def plan_state(
    module: torch.nn.Module, source: WeightSource, shapes: Shapes, leftovers: Iterable[str] = ()
) -> StatePlan:
    """The arrays for `module`'s parameters, to be read from `source`, and for its buffers, which it holds.

    `shapes` is the module's `abstract_state`: what they become. Parameters may be on the meta device, buffers
    may not. Of the source no tensor is read.

    Raises CheckpointError where it is not whole, or where a tensor is missing, quantised or of another shape,
    or is there for nothing: neither used nor of a name that one of `leftovers` matches.
    """
    parameters = dict(module.named_parameters())
    origins = _origins(module)
    stored = source.tensors()
    tensors = dict(stored)
    _resolve_tied(module, tensors)
    unused = _unused(module, origins, stored, leftovers)
    check_quantised(source, unused)
    _check(source, parameters, origins, tensors)
    check_all_used(source, unused)
    planned = {}
    for name, names in origins.items():
        axes = stored_axes(parameters[name])
        folded = tuple(parameters[name].shape[axes.index(axis)] for axis in range(len(axes)))
        planned[name] = _Parameter(tuple(tensors[each] for each in names), folded, axes, shapes[name])
    return StatePlan(shapes, planned, {name: buffer.numpy() for name, buffer in module.named_buffers()})


def _origins(module: torch.nn.Module) -> dict[str, tuple[str, ...]]:
    """The names of the tensors that make up each parameter."""
    origins: dict[str, tuple[str, ...]] = {name: (name,) for name, _ in module.named_parameters()}
    for prefix, layers in module.named_modules():
        if isinstance(layers, ScannedLayers):
            for name, _ in layers.layer.named_parameters():
                count = 1 if name in layers.shared else layers.depth
                names = tuple(f"{prefix}.{layer}.{name}" for layer in range(count))
                origins[f"{prefix}.layer.{name}"] = names
    return origins


def _resolve_tied(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Gives the tensor of tied parameters, which has any of their names in the source, the first one too."""
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
        if name in tensors:
            tensors.setdefault(first[id(parameter)], tensors[name])


def _unused(
    module: torch.nn.Module,
    origins: dict[str, tuple[str, ...]],
    stored: Iterable[str],
    leftovers: Iterable[str],
) -> list[str]:
    """The stored tensors that no parameter comes from, that are no buffer, and may not be left over."""
    known = {name for names in origins.values() for name in names}
    known |= {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers()}
    pattern = re.compile("|".join(f"(?:{leftover})" for leftover in leftovers) or r"(?!)")
    return [name for name in stored if name not in known and not pattern.fullmatch(name)]


def _check(
    source: WeightSource,
    parameters: dict[str, torch.nn.Parameter],
    origins: dict[str, tuple[str, ...]],
    tensors: dict[str, Tensor],
) -> None:
    faults = []
    for parameter, names in origins.items():
        wanted = stored_shape(parameters[parameter])
        for name in names:
            if name not in tensors:
                faults.append(f"{name} is missing")
            elif (found := tensors[name].shape) != wanted:
                faults.append(f"{name} has shape {list(found)}, not {list(wanted)}")
            elif not tensors[name].is_floating:
                raise CheckpointError(
                    f"{source} is quantised ({name} is {tensors[name].dtype}); {UNQUANTISED}"
                )
    if faults:
        raise CheckpointError(f"{source} does not fit its own config.json: {first_few(faults, '; ')}")


@partial(jax.jit, donate_argnums=0)
def _set_layer(stack: jax.Array, layer: jax.Array, index: int) -> jax.Array:
    updated: jax.Array = jax.lax.dynamic_update_index_in_dim(stack, layer, index, 0)
    return updated
