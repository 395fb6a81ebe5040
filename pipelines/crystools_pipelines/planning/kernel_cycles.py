"""The Pallas kernels of a program, each compiled alone for the length of libtpu's schedule of it.

In a process that was started with SCHEDULE_FLAGS. What libtpu would write of a whole model takes longer than
its compile.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crystools_pipelines.kernels.scopes import UNLIKELY

SCHEDULE_FLAGS = (
    "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
)
"""With them libtpu writes down the final schedule of all that it compiles."""

Kernel: TypeAlias = tuple[str, tuple[str, ...]]
"""A kernel's name, and its operands' types as HLO writes them, such as `bf16[10,75776,128]`."""

_BUNDLES = re.compile(r"total scheduled bundles:\s+(\d+)")

# HLO's names of dtypes, where they are not `s32` for `int32` and the like.
_HLO_DTYPES = {"bfloat16": "bf16", "bool": "pred"}
_HLO_KINDS = {"float": "f", "int": "s", "uint": "u"}

_bundles: dict[bytes, int | None] = {}  # of what was compiled before


def kernel_cycles(traced: jax.stages.Traced, folder: Path) -> dict[Kernel, int]:
    """TensorCore cycles of each kernel of a program that was traced for TPUs.

    The instruction bundles of its body, of which one is issued a cycle, times the steps of its grid. Left out
    is a kernel whose grid is known only when it runs, or whose schedule libtpu does not write into `folder`.
    """
    closed: Any = traced.jaxpr
    cycles = {}
    for equation, mesh in pallas_calls(closed.jaxpr, None):
        grid = equation.params["grid_mapping"].grid
        if mesh is None or not all(isinstance(size, int) for size in grid):
            continue
        kernel = str(equation.params["name"]), tuple(_hlo_type(each.aval) for each in equation.invars)
        bundles = None if kernel in cycles else _schedule(_alone(equation, mesh), folder)
        if bundles is not None:
            cycles[kernel] = bundles * _steps(equation, mesh.devices.flat[0])
    return cycles


def _steps(equation: JaxprEqn, device: jax.Device) -> int:
    """The grid's steps on the busiest TensorCore: two of a device share the first parallel axis."""
    grid = list(equation.params["grid_mapping"].grid)
    semantics = getattr(equation.params["compiler_params"], "dimension_semantics", None) or ()
    cores = getattr(device, "num_cores", 1)
    for axis, meaning in enumerate(semantics):
        if "parallel" in str(meaning).lower() and grid[axis] >= cores:
            grid[axis] = -(-grid[axis] // cores)
            break
    return prod(grid)


def pallas_calls(jaxpr: Jaxpr, mesh: Mesh | None) -> Iterator[tuple[JaxprEqn, Mesh | None]]:
    """Pallas calls that are likely to run, each with the mesh of the `shard_map` around it."""
    for equation in jaxpr.eqns:
        if UNLIKELY in str(equation.source_info.name_stack).split("/"):
            continue
        if equation.primitive.name == "pallas_call":
            yield equation, mesh
            continue
        within = equation.params["mesh"] if equation.primitive.name == "shard_map" else mesh
        for inner in jaxprs_in_params(equation.params):
            yield from pallas_calls(inner, within)


def _alone(equation: JaxprEqn, mesh: Mesh) -> jax.stages.Lowered:
    """The kernel on one device of the mesh."""

    def alone(*args: jax.Array) -> Any:
        return equation.primitive.bind(*args, **equation.params)

    args = [variable.aval for variable in equation.invars]
    lowered: jax.stages.Lowered = traced_alone(alone, mesh.devices.flat[0], args).lower()
    return lowered


def traced_alone(function: Callable[..., Any], device: jax.Device, args: Iterable[Any]) -> jax.stages.Traced:
    """The function on one device, of args of these shapes; Pallas asks the mesh around it for the chip."""
    one, replicated = Mesh([device], ("alone",)), PartitionSpec()
    mapped = jax.shard_map(function, mesh=one, in_specs=replicated, out_specs=replicated, check_vma=False)
    sharding = NamedSharding(one, replicated)
    shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=sharding) for each in args]
    return jax.jit(mapped).trace(*shapes)


def _schedule(lowered: jax.stages.Lowered, folder: Path) -> int | None:
    """Bundles of the kernel's schedule, which is called as the function around it; others are of copies."""
    key = sha256(lowered.as_text().encode()).digest()
    if key not in _bundles:
        for path in folder.iterdir():  # of the compile before, which may have failed
            path.unlink()
        lowered.compile()
        found = []
        for path in folder.glob("*-alone.*schedule-analysis_final_bundles.txt"):
            found += [int(count) for count in _BUNDLES.findall(path.read_text())]
        _bundles[key] = max(found, default=None)
    return _bundles[key]


def _hlo_type(aval: Any) -> str:
    name = str(aval.dtype)
    kind = name.rstrip("0123456789")
    short = _HLO_DTYPES.get(name) or _HLO_KINDS.get(kind, kind) + name[len(kind) :]
    return f"{short}[{','.join(map(str, aval.shape))}]"
