"""Which components leave the HBM in a run, on a chip that held nothing before."""

from collections.abc import Sequence
from dataclasses import dataclass

from crystools_pipelines.runtime.residency import evicted


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
    stage then needs more than is left, all leave that it does not use, as `Residency.retry_out_of_memory` has
    it.
    """
    residents: list[tuple[str, int]] = []
    left = []
    for stage in stages:
        present = [(each, ("chip",), each[1]) for each in residents]
        leaving = evicted(present, {"chip": limit_bytes - _bytes(residents)}, _bytes(stage.loads))
        residents = residents[len(leaving) :]
        if stage.peak_bytes is not None and _bytes(residents) + stage.peak_bytes > limit_bytes:
            leaving += residents
            residents = []
        residents += stage.loads
        left.append(tuple(component for component, _ in leaving))
    return left


def _bytes(residents: Sequence[tuple[str, int]]) -> int:
    return sum(size for _, size in residents)
