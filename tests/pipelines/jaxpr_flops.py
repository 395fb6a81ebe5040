"""FLOPs of a traced computation: the executed counterpart of the architecture's own formulas.

XLA's `cost_analysis()` counts a scanned body once and a Pallas kernel as nothing; this walk multiplies scans
and reads the kernels' cost estimates. What it cannot know it marks instead of guessing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params

# Primitives that may multiply matrices where a jaxpr does not show it.
OPAQUE_PRIMITIVES = frozenset(
    {"dot_product_attention_fwd_wrapper", "ffi_call", "ragged_dot_general", "tpu_custom_call"}
)


@dataclass(frozen=True)
class FlopCount:
    """FLOPs on all devices together; `marks` says, for each thing that makes them inexact, which and how."""

    flops: int = 0
    marks: frozenset[str] = frozenset()

    @property
    def exact(self) -> bool:
        return not self.marks

    def __add__(self, other: "FlopCount") -> "FlopCount":
        return FlopCount(self.flops + other.flops, self.marks | other.marks)

    def times(self, factor: int) -> "FlopCount":
        return FlopCount(self.flops * factor, self.marks)


def count_flops(closed_jaxpr: ClosedJaxpr) -> FlopCount:
    """Count matrix products and convolutions, 2 FLOPs for each multiplication with its addition; no others.

    Outside `shard_map` shapes are global, so the count is of the whole computation however it is sharded;
    inside it the body runs on every device of the mapped axes, replicated work included.
    """
    return _jaxpr(closed_jaxpr.jaxpr)


def _jaxpr(jaxpr: Jaxpr) -> FlopCount:
    return _sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: JaxprEqn) -> FlopCount:
    name = equation.primitive.name
    if name in _RULES:
        return _RULES[name](equation)
    if name in OPAQUE_PRIMITIVES:
        return _marked(f"{name}: opaque, not counted")
    return _sum(_jaxpr(inner) for inner in jaxprs_in_params(equation.params))


def _dot_general(equation: JaxprEqn) -> FlopCount:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, output = _shape(equation.invars[0]), _shape(equation.outvars[0])
    return FlopCount(2 * prod(output) * prod(left[axis] for axis in contracted))


def _conv_general_dilated(equation: JaxprEqn) -> FlopCount:
    dimensions = equation.params["dimension_numbers"]
    image, kernel, output = map(_shape, (*equation.invars, *equation.outvars))
    if prod(equation.params["lhs_dilation"]) > 1:
        # Transposed: every input position meets the kernel once; the zeros between them are not work.
        positions = prod(image[axis] for axis in (dimensions.lhs_spec[0], *dimensions.lhs_spec[2:]))
    else:
        positions = prod(output[axis] for axis in (dimensions.out_spec[0], *dimensions.out_spec[2:]))
    return FlopCount(2 * positions * prod(kernel))


def _scan(equation: JaxprEqn) -> FlopCount:
    return _jaxpr(equation.params["jaxpr"].jaxpr).times(equation.params["length"])


def _while(equation: JaxprEqn) -> FlopCount:
    once = _sum(_jaxpr(inner) for inner in jaxprs_in_params(equation.params))
    if not once.flops:
        return once
    return FlopCount(0, once.marks) + _marked(
        f"while: trip count unknown, {once.flops} FLOPs each not counted"
    )


def _cond(equation: JaxprEqn) -> FlopCount:
    branches = [_jaxpr(branch.jaxpr) for branch in equation.params["branches"]]
    flops = [branch.flops for branch in branches]
    most = FlopCount(max(flops), frozenset().union(*(branch.marks for branch in branches)))
    if min(flops) == max(flops):
        return most
    return most + _marked(f"cond: branches of {min(flops)} to {max(flops)} FLOPs, the largest counted")


def _shard_map(equation: JaxprEqn) -> FlopCount:
    mesh, axes = equation.params["mesh"], equation.params["newly_manual_axes"]
    return _sum(map(_jaxpr, jaxprs_in_params(equation.params))).times(prod(mesh.shape[axis] for axis in axes))


def _pallas_call(equation: JaxprEqn) -> FlopCount:
    estimate = equation.params["cost_estimate"]
    if estimate is None:
        return _marked(f"pallas_call {equation.params['name']}: no cost estimate, not counted")
    return FlopCount(int(estimate.flops))


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _marked(mark: str) -> FlopCount:
    return FlopCount(marks=frozenset({mark}))


def _sum(counts: Iterable[FlopCount]) -> FlopCount:
    return sum(counts, start=FlopCount())


_RULES: dict[str, Callable[[JaxprEqn], FlopCount]] = {
    "cond": _cond,
    "conv_general_dilated": _conv_general_dilated,
    "dot_general": _dot_general,
    "pallas_call": _pallas_call,
    "scan": _scan,
    "shard_map": _shard_map,
    "while": _while,
}
