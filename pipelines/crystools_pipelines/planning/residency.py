"""Who leaves the HBM in a run, by the rules of `runtime.residency`, on a chip that held nothing before."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StageMemory:
    """What a stage wants of a device: the components loaded for it, and its peak with them in it.

    `peak_bytes` is None where it is not known.
    """

    loads: tuple[tuple[str, int], ...]
    peak_bytes: int | None


def evictions(stages: Sequence[StageMemory], limit_bytes: int) -> list[tuple[str, ...]]:
    """For each stage, the components that leave for it, the one that was loaded first first.

    A component that is loaded needs room for its weights: the oldest leave until there is some. Where the
    stage then needs more than is left, all leave that it does not use.
    """
    residents: list[tuple[str, int]] = []
    left = []
    for stage in stages:
        leaving: list[tuple[str, int]] = []
        wanted = _bytes(stage.loads)
        while residents and _bytes(residents) + wanted > limit_bytes:
            leaving.append(residents.pop(0))
        if stage.peak_bytes is not None and _bytes(residents) + stage.peak_bytes > limit_bytes:
            leaving += residents
            residents = []
        residents += stage.loads
        left.append(tuple(component for component, _ in leaving))
    return left


def _bytes(residents: Sequence[tuple[str, int]]) -> int:
    return sum(size for _, size in residents)
