"""The Pallas kernels of a program, each alone: what it is called in the HLO, its grid, and its schedule."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jax.experimental import topologies
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# HLO's names of dtypes, where they are not `s32` for `int32` and the like.
_HLO_DTYPES = {"bfloat16": "bf16", "bool": "pred"}
_HLO_KINDS = {"float": "f", "int": "s", "uint": "u"}
_BUNDLES = re.compile(r"total scheduled bundles:\s+(\d+)")


@dataclass(frozen=True)
class Kernel:
    """A kernel on one device. `operands` are types as HLO writes them, such as `bf16[10,75776,128]`.

    `grid_steps` is how often its body runs, None where that is known only when it runs; `exported` is the
    kernel as `jax.export` serialises it.
    """

    name: str
    operands: tuple[str, ...]
    grid_steps: int | None
    exported: bytes

    @property
    def digest(self) -> str:
        """The same for the same kernel."""
        return sha256(self.exported).hexdigest()


def kernels_in(traced: jax.stages.Traced) -> tuple[Kernel, ...]:
    """The different kernels of a program that was traced for TPUs."""
    closed: Any = traced.jaxpr
    found = {_key(equation): (equation, mesh) for equation, mesh in _pallas_calls(closed.jaxpr, None)}
    return tuple(_kernel(key, *call) for key, call in found.items())


def _pallas_calls(jaxpr: Jaxpr, mesh: Mesh | None) -> Iterator[tuple[JaxprEqn, Mesh | None]]:
    """Each with the mesh of the `shard_map` around it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation, mesh
            continue
        within = equation.params["mesh"] if equation.primitive.name == "shard_map" else mesh
        for inner in jaxprs_in_params(equation.params):
            yield from _pallas_calls(inner, within)


def _key(equation: JaxprEqn) -> tuple[str, tuple[str, ...]]:
    return str(equation.params["name"]), tuple(_hlo_type(variable.aval) for variable in equation.invars)


def _kernel(key: tuple[str, tuple[str, ...]], equation: JaxprEqn, mesh: Mesh | None) -> Kernel:
    grid = equation.params["grid_mapping"].grid
    steps = prod(grid) if all(isinstance(size, int) for size in grid) else None
    exported = b"" if mesh is None else _export(equation, mesh)
    return Kernel(*key, steps if exported else None, exported)


def _export(equation: JaxprEqn, mesh: Mesh) -> bytes:
    """The kernel for one device of the mesh; Pallas asks the mesh around it for the chip."""
    one = Mesh(mesh.devices.flat[:1], ("alone",))

    def alone(*args: jax.Array) -> Any:
        return equation.primitive.bind(*args, **equation.params)

    function = jax.shard_map(
        alone, mesh=one, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )
    whole = NamedSharding(one, PartitionSpec())
    args = [_abstract(variable.aval, whole) for variable in equation.invars]
    return bytes(export.export(jax.jit(function), platforms=["tpu"])(*args).serialize())


def bundles(libtpu_name: str, libtpu_options: dict[str, Any], exported: bytes, dump: str) -> int | None:
    """The instruction bundles of a kernel's body, from what libtpu writes into `dump`, which is then empty.

    The process must have been started with `--xla_jf_dump_to=DUMP --xla_jf_dump_llo_text=true`. The largest
    of what is there is the kernel; None where nothing is.
    """
    kernel = export.deserialize(bytearray(exported))
    description = topologies.get_topology_desc(platform="tpu", topology_name=libtpu_name, **libtpu_options)
    one = Mesh(np.asarray(description.devices[:1]), ("alone",))
    whole = NamedSharding(one, PartitionSpec())
    jax.jit(kernel.call).trace(*[_abstract(aval, whole) for aval in kernel.in_avals]).lower().compile()
    found = []
    for path in Path(dump).iterdir():
        if path.name.endswith("schedule-analysis_final_bundles.txt"):
            found += [int(number) for number in _BUNDLES.findall(path.read_text())]
        path.unlink()
    return max(found, default=None)


def _abstract(aval: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)


def _hlo_type(aval: Any) -> str:
    name = str(aval.dtype)
    kind = name.rstrip("0123456789")
    short = _HLO_DTYPES.get(name) or _HLO_KINDS.get(kind, kind) + name[len(kind) :]
    return f"{short}[{','.join(map(str, aval.shape))}]"
