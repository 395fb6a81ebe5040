"""Compiles for TPUs that this machine does not have: what fits on a chip, known before one is rented.

libtpu compiles for a described topology. It takes its settings from the environment when it is loaded, so
that happens in a child process. Weights are shapes with shardings: only configurations are read.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import torch
from diffusers import ModelMixin
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crystools_pipelines.runtime.mesh import replicated
from crystools_pipelines.runtime.scan import ScannedLayers
from crystools_pipelines.runtime.sharding import Rules, match

# libtpu's names for one host of each accelerator type: chips by their place in the torus.
TOPOLOGIES = {
    "v5p-8": "v5p:2x2x1",
    "v6e-8": "v6e:2x4",
}

_LIBTPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # off Google Cloud, asking its metadata server takes minutes
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so nobody else's is taken
}

Programs: TypeAlias = Sequence[jax.stages.Lowered]


@dataclass(frozen=True)
class ProgramMemory:
    """What one program takes of each device's HBM while it runs, by the compiler's own account."""

    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    """Of the outputs, those that take the place of arguments."""
    temporary_bytes: int
    code_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it together; what other programs keep on the device comes on top."""
        written = self.output_bytes - self.alias_bytes
        return self.argument_bytes + written + self.temporary_bytes + self.code_bytes


class TpuCompiler:
    """A child process that compiles, one stage after the other, until the context ends."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepare)

    def __enter__(self) -> "TpuCompiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def compile(self, topology: str, lower: Callable[..., Programs], *args: Any) -> tuple[ProgramMemory, ...]:
        """Compiles what `lower(devices, *args)` returns for the devices of `topology`, a key of TOPOLOGIES.

        `lower` is found by its name in the child, and `args` are pickled. Raises what the compiler raises
        where a program does not fit into a device's HBM.
        """
        return self._pool.submit(_compile, TOPOLOGIES[topology], lower, args).result()


def _prepare() -> None:
    os.environ.update(_LIBTPU_ENVIRONMENT)


def _compile(
    topology_name: str, lower: Callable[..., Programs], args: tuple[Any, ...]
) -> tuple[ProgramMemory, ...]:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=topology_name)
    return tuple(_memory(program.compile()) for program in lower(list(topology.devices), *args))


def _memory(compiled: jax.stages.Compiled) -> ProgramMemory:
    analysis: Any = compiled.memory_analysis()
    return ProgramMemory(
        argument_bytes=analysis.argument_size_in_bytes,
        output_bytes=analysis.output_size_in_bytes,
        alias_bytes=analysis.alias_size_in_bytes,
        temporary_bytes=analysis.temp_size_in_bytes,
        code_bytes=analysis.generated_code_size_in_bytes,
    )


def abstract_state(
    module: torch.nn.Module, mesh: Mesh, rules: Rules, dtype: str
) -> dict[str, jax.ShapeDtypeStruct]:
    """What `Job.load` would load for `module`, as shapes: the same names, dtypes and shardings."""
    float32 = (module._keep_in_fp32_modules or ()) if isinstance(module, ModelMixin) else ()
    parameters = dict(module.named_parameters())
    depths = _stack_depths(module)
    state = {}
    for name, spec in match(rules, parameters).items():
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


def abstract(tree: Any, sharding: NamedSharding) -> Any:
    """The arrays of `tree` as shapes with this sharding."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _stack_depths(module: torch.nn.Module) -> dict[str, int]:
    """For each parameter that stands for one in every layer of a stack, how many layers there are."""
    return {
        f"{prefix}.layer.{name}": layers.depth
        for prefix, layers in module.named_modules()
        if isinstance(layers, ScannedLayers)
        for name, _ in layers.layer.named_parameters()
        if name not in layers.shared
    }
