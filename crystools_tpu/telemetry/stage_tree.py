"""Which stages are parts of which, for whoever shows them so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crystools_tpu.telemetry.events import RunReport, StageReport, Status


def parent_of(stages: Sequence[StageReport], position: int) -> int | None:
    """The position of the stage that this one is a part of; None at the top.

    What was read may name one that is not there, as a part of a run does that is shown alone: that is none.
    """
    parent = stages[position].parent
    return parent if parent is not None and 0 <= parent < position else None


def walk(stages: Sequence[StageReport]) -> Iterator[tuple[int, int]]:
    """The position of each stage with its depth, each followed by its parts, else in their order.

    A loop may put one iteration into the other, hundreds deep: nothing here recurses.
    """
    parts: dict[int | None, list[int]] = {}
    for position in range(len(stages)):
        parts.setdefault(parent_of(stages, position), []).append(position)
    to_come = [(position, 0) for position in reversed(parts.get(None, []))]
    while to_come:
        position, depth = to_come.pop()
        yield position, depth
        to_come += [(part, depth + 1) for part in reversed(parts.get(position, []))]


def notable(stages: Sequence[StageReport], most: int) -> set[int]:
    """The positions of those that did not succeed and of the slowest, no more than `most` together."""

    def rank(position: int) -> tuple[bool, float]:
        return stages[position].status is not Status.SUCCEEDED, stages[position].seconds or 0.0

    return set(sorted(range(len(stages)), key=rank, reverse=True)[:most])


def top_level(stages: Sequence[StageReport]) -> list[StageReport]:
    """The stages that are no part of another."""
    return [stage for position, stage in enumerate(stages) if parent_of(stages, position) is None]


def running_stage(run: RunReport) -> StageReport | None:
    """The stage that a run is in, the innermost; None between two stages."""
    number = number_of_running_stage(run)
    return None if number is None else run.stages[number]


def number_of_running_stage(run: RunReport) -> int | None:
    """Its position among the run's stages."""
    if run.status is not Status.RUNNING:
        return None
    numbers = reversed(range(len(run.stages)))
    return next((number for number in numbers if run.stages[number].status is Status.RUNNING), None)
