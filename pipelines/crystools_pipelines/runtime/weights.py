"""A checkpoint's safetensors, straight to the shards that need them.

One checkpoint tensor at a time passes through host memory, and of it only what this process's devices hold.
"""

import contextlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import safe_open

from crystools_pipelines.runtime.errors import CheckpointError
from crystools_pipelines.runtime.mesh import replicated
from crystools_pipelines.runtime.scan import ScannedLayers
from crystools_pipelines.runtime.sharding import Rules, match

# The names that diffusers and transformers save under.
_STEMS = ("diffusion_pytorch_model", "model")

State: TypeAlias = dict[str, jax.Array]


@dataclass(frozen=True)
class _Source:
    """The checkpoint tensors that make up a parameter: one a layer where it is stacked, else a single one."""

    names: tuple[str, ...]
    stacked: bool


def load_state(
    module: torch.nn.Module,
    folder: Path,
    *,
    mesh: Mesh,
    rules: Rules,
    dtype: str,
    float32: Collection[str] = (),
) -> State:
    """The arrays for `module`'s parameters, read from `folder`, and for its buffers, which it holds itself.

    Parameters may be on the meta device, buffers may not. A parameter inside a ScannedLayers is stacked,
    unless its layers share it. Parameters become `dtype`, except those with a component of their name in
    `float32`.

    Raises UnmatchedParametersError where `rules` lack some, CheckpointError naming every tensor that is
    missing or has the wrong shape.
    """
    parameters = dict(module.named_parameters())
    specs = match(rules, parameters)
    sources = _sources(module)
    with contextlib.ExitStack() as stack:
        tensors = _open_tensors(folder, stack)
        _resolve_tied(module, tensors)
        _check(folder, parameters, sources, tensors)
        state = {}
        for name, source in sources.items():
            kept = not set(name.split(".")).isdisjoint(float32)
            load = _load_stacked if source.stacked else _load_single
            state[name] = load(
                [tensors[tensor] for tensor in source.names],
                NamedSharding(mesh, specs[name]),
                jnp.dtype("float32" if kept else dtype),
            )
    buffers = {name: jax.device_put(b.numpy(), replicated(mesh)) for name, b in module.named_buffers()}
    return state | buffers


def _sources(module: torch.nn.Module) -> dict[str, _Source]:
    sources = {name: _Source((name,), stacked=False) for name, _ in module.named_parameters()}
    for prefix, layers in module.named_modules():
        if isinstance(layers, ScannedLayers):
            for name, _ in layers.layer.named_parameters():
                shared = name in layers.shared
                names = tuple(f"{prefix}.{layer}.{name}" for layer in range(1 if shared else layers.depth))
                sources[f"{prefix}.layer.{name}"] = _Source(names, stacked=not shared)
    return sources


def _resolve_tied(module: torch.nn.Module, tensors: dict[str, Any]) -> None:
    """Of tied parameters the checkpoint holds one, under any of their names: give it the first name too."""
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
        if name in tensors:
            tensors.setdefault(first[id(parameter)], tensors[name])


def _open_tensors(folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Every tensor of the checkpoint as a lazy slice, by name. The files stay open until `stack` closes."""
    tensors: dict[str, Any] = {}
    for path in _files(folder):
        file = stack.enter_context(safe_open(path, framework="numpy"))
        tensors |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def _files(folder: Path) -> list[Path]:
    for stem in _STEMS:
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            return sorted({folder / file for file in json.loads(index.read_text())["weight_map"].values()})
        if (single := folder / f"{stem}.safetensors").is_file():
            return [single]
    raise CheckpointError(f"{folder} holds no safetensors weights ({' or '.join(_STEMS)}.safetensors)")


def _check(
    folder: Path,
    parameters: dict[str, torch.nn.Parameter],
    sources: dict[str, _Source],
    tensors: dict[str, Any],
) -> None:
    faults = []
    for parameter, source in sources.items():
        wanted = list(parameters[parameter].shape)
        for name in source.names:
            if name not in tensors:
                faults.append(f"{name} is missing")
            elif (found := list(tensors[name].get_shape())) != wanted:
                faults.append(f"{name} has shape {found}, not {wanted}")
    if faults:
        raise CheckpointError(f"{folder} does not fit its own config.json: {'; '.join(faults)}")


def _load_single(tensors: Sequence[Any], sharding: NamedSharding, dtype: jnp.dtype[Any]) -> jax.Array:
    (tensor,) = tensors
    shape = tuple(tensor.get_shape())
    return jax.make_array_from_callback(shape, sharding, lambda index: tensor[index].astype(dtype))


def _load_stacked(tensors: Sequence[Any], sharding: NamedSharding, dtype: jnp.dtype[Any]) -> jax.Array:
    shape = (len(tensors), *tensors[0].get_shape())
    stacked = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
    array = jnp.zeros(shape, dtype, device=stacked)
    for layer, tensor in enumerate(tensors):
        array = _set_layer(array, _load_single([tensor], sharding, dtype), layer)
        array.block_until_ready()  # so that the host holds one tensor, not a queue of them
    return array


@partial(jax.jit, donate_argnums=0)
def _set_layer(stack: jax.Array, layer: jax.Array, index: int) -> jax.Array:
    updated: jax.Array = jax.lax.dynamic_update_index_in_dim(stack, layer, index, 0)
    return updated
