"""How many devices each axis of a mesh has (`parallel.mesh` says what the axes are). Imports no jax."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crystools_pipelines.errors import RequestError

_AXES = {"dp": "data", "sp": "sequence", "tp": "tensor"}


@dataclass(frozen=True)
class MeshShape:
    """How many devices each axis of a mesh has."""

    data: int = 1
    sequence: int = 1
    tensor: int = 1

    @property
    def devices(self) -> int:
        """The devices of all axes together."""
        return self.data * self.sequence * self.tensor

    def __str__(self) -> str:
        return ",".join(f"{short}={getattr(self, axis)}" for short, axis in _AXES.items())


def parse_mesh(text: str) -> MeshShape:
    """`dp=2,tp=4`, in any order; an axis that is not named is 1. Raises RequestError for anything else."""
    parts = [re.fullmatch(r"\s*([a-z]+)\s*=\s*(\d+)\s*", part) for part in text.split(",")]
    sizes = {part[1]: int(part[2]) for part in parts if part is not None}
    if len(sizes) < len(parts) or not set(sizes) <= set(_AXES) or 0 in sizes.values():
        raise RequestError("mesh", f"{text!r} is none; give some of dp, sp and tp, such as dp=2,tp=4")
    return MeshShape(**{_AXES[name]: size for name, size in sizes.items()})


def legal_shapes(devices: int, *, branches: int, widths: Sequence[int]) -> list[MeshShape]:
    """Every shape over so many devices, that of the usual rule last.

    `data` divides the guidance branches, `tensor` every one of `widths`; `sequence` is what is left. The rule
    makes `data` as large as it can be, then `tensor`.
    """
    return [
        MeshShape(data, devices // data // tensor, tensor)
        for data in _divisors(math.gcd(devices, branches))
        for tensor in _divisors(math.gcd(devices // data, *widths))
    ]


def _divisors(number: int) -> Iterator[int]:
    return (divisor for divisor in range(1, number + 1) if number % divisor == 0)
