"""What a component's weights are before any is read: names, shapes, dtypes, places on the mesh."""

from math import prod
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import torch
from diffusers import ModelMixin
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel.layout import at_rest
from crystools_pipelines.parallel.mesh import replicated
from crystools_pipelines.parallel.sharding import Rules, match

Shapes: TypeAlias = dict[str, jax.ShapeDtypeStruct]


def abstract_state(module: torch.nn.Module, mesh: Mesh, rules: Rules, dtype: str) -> Shapes:
    """The arrays that `module` runs with, as shapes with shardings: its parameters, and its buffers.

    A parameter inside a ScannedLayers is stacked, unless its layers share it, and is kept as
    `layout.at_rest` says where the layers gather it for work. Parameters are of `dtype`, except those that a
    diffusers module names as its float32 ones. Raises UnmatchedParametersError where `rules` lack some.
    """
    # transformers has the same attribute, but for float16 alone.
    float32 = (module._keep_in_fp32_modules or ()) if isinstance(module, ModelMixin) else ()
    parameters = dict(module.named_parameters())
    specs = match(rules, parameters)
    depths = {}
    for prefix, layers in module.named_modules():
        if isinstance(layers, ScannedLayers):
            for name in set(dict(layers.layer.named_parameters())) - layers.shared:
                name = f"{prefix}.layer.{name}"
                depths[name] = layers.depth
                if layers.weights is not None:
                    specs[name] = at_rest(mesh, specs[name], parameters[name].shape)
    state = {}
    for name, spec in specs.items():
        shape = tuple(parameters[name].shape)
        if name in depths:
            shape, spec = (depths[name], *shape), PartitionSpec(None, *spec)
        kept = not set(name.split(".")).isdisjoint(float32)
        state[name] = jax.ShapeDtypeStruct(
            shape, jnp.dtype("float32" if kept else dtype), sharding=NamedSharding(mesh, spec)
        )
    buffers = {
        name: jax.ShapeDtypeStruct(tuple(buffer.shape), buffer.numpy().dtype, sharding=replicated(mesh))
        for name, buffer in module.named_buffers()
    }
    return state | buffers


def device_bytes(array: jax.Array | jax.ShapeDtypeStruct) -> int:
    """Bytes that an array with a sharding takes of one device."""
    shape = cast(NamedSharding, array.sharding).shard_shape(array.shape)
    return prod(shape) * int(array.dtype.itemsize)
