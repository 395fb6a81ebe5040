"""The Pallas kernels of a program: how often the body of each runs, and libtpu's schedule of it."""

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

SCHEDULE_FLAGS = (
    "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
)
"""Of libtpu, when it is loaded: it writes down the final schedule of all that it compiles, and no more."""

_SCHEDULE_FILE = re.compile(r"\d+-(.+?)-\d+-schedule-analysis_final_bundles\.txt")
_BUNDLES = re.compile(r"total scheduled bundles:\s+(\d+)")

# HLO's names of dtypes, where they are not `s32` for `int32` and the like.
_HLO_DTYPES = {"bfloat16": "bf16", "bool": "pred"}
_HLO_KINDS = {"float": "f", "int": "s", "uint": "u"}


def grid_steps(traced: jax.stages.Traced) -> dict[tuple[str, tuple[str, ...]], int]:
    """Steps of the grid of each kernel, by its name and its operands' types, such as `bf16[10,75776,128]`.

    Those whose grid is known only when they run are left out.
    """
    closed: Any = traced.jaxpr
    steps = {}
    for equation in _pallas_calls(closed.jaxpr):
        grid = equation.params["grid_mapping"].grid
        if all(isinstance(size, int) for size in grid):
            operands = tuple(_hlo_type(variable.aval) for variable in equation.invars)
            steps[str(equation.params["name"]), operands] = prod(grid)
    return steps


def _pallas_calls(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
        else:
            for inner in jaxprs_in_params(equation.params):
                yield from _pallas_calls(inner)


def _hlo_type(aval: Any) -> str:
    name = str(aval.dtype)
    kind = name.rstrip("0123456789")
    short = _HLO_DTYPES.get(name) or _HLO_KINDS.get(kind, kind) + name[len(kind) :]
    return f"{short}[{','.join(map(str, aval.shape))}]"


def take_bundles(folder: Path) -> dict[str, int]:
    """What `SCHEDULE_FLAGS` made libtpu write into a folder, which is then empty.

    By the name of the instruction the bundles of its schedule, of which a TensorCore issues one a cycle.
    """
    bundles = {}
    for path in folder.iterdir():
        named = _SCHEDULE_FILE.fullmatch(path.name)
        if named and (found := _BUNDLES.search(path.read_text())):
            bundles[named[1]] = int(found[1])
        path.unlink()
    return bundles
