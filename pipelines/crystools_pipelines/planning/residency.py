"""Which components leave the HBM in a run, on a chip that held nothing before."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from crystools_pipelines.runtime.residency import evicted

Loads: TypeAlias = Mapping[str, int]
"""The components that are loaded for a stage, and their bytes on the chip."""


def evictions(stages: Sequence[tuple[Loads, int | None]], limit_bytes: int) -> list[tuple[str, ...]]:
    """For each stage, the components that leave for it, the one that was loaded first first.

    Each stage is its loads, and its peak in bytes with them in it, None where that is not known. A component
    that is loaded needs room for its weights: the oldest leave until there is some (`evicted`). Where the
    stage then needs more than is left, all leave that it does not use (`Residency.retry_out_of_memory`).
    """
    residents: list[tuple[str, int]] = []
    left = []
    for loads, peak_bytes in stages:
        on_chip = [(each, ("chip",), each[1]) for each in residents]
        leaving = evicted(on_chip, {"chip": limit_bytes - _bytes(residents)}, sum(loads.values()))
        residents = residents[len(leaving) :]
        if peak_bytes is not None and _bytes(residents) + peak_bytes > limit_bytes:
            leaving += residents
            residents = []
        residents += loads.items()
        left.append(tuple(component for component, _ in leaving))
    return left


def _bytes(residents: Sequence[tuple[str, int]]) -> int:
    return sum(size for _, size in residents)
