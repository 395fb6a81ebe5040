"""What a stage's steps come to together: each kind apart, and for a share of skips that is given."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from crystools_pipelines.planning.plan import Plan, PlannedSteps, StagePlan
from crystools_pipelines.planning.topologies import TOPOLOGIES, Topology
from crystools_tpu.telemetry.events import CACHED, FULL


class Totals(TypedDict):
    """The fields of `StagePlan` that follow from its steps."""

    steps: int
    flops: float
    moved_bytes: float
    roofline_seconds: float
    estimated_seconds: float | None
    estimated_mfu: float | None
    collective_bytes: dict[str, int] | None
    estimate: dict[str, float] | None
    steps_by_kind: tuple[PlannedSteps, ...]
    undecided_steps: int


def totals(kinds: Sequence[PlannedSteps], undecided: int, topology: Topology) -> Totals:
    """What steps of these kinds, and so many of which the device decides, come to on these chips."""
    if not undecided:
        return _decided(kinds, topology)
    most, least = (_decided(_counted(kinds, undecided, skips), topology) for skips in (0, undecided))
    return {
        **most,
        "roofline_seconds": least["roofline_seconds"],
        "estimated_seconds": None,
        "estimated_mfu": None,
        "collective_bytes": None,
        "estimate": None,
        "steps_by_kind": tuple(kinds),
        "undecided_steps": undecided,
    }


def with_skips(plan: Plan, share: float) -> Plan:
    """The plan where this share of each stage's steps is cached, as near as the stage can come to it.

    A stage whose steps are all known beforehand stays as it is.
    """
    return replace(plan, stages=tuple(_with_skips(stage, share, plan.topology) for stage in plan.stages))


def _with_skips(stage: StagePlan, share: float, topology: str) -> StagePlan:
    if not stage.undecided_steps:
        return stage
    known = sum(steps.count for steps in stage.steps_by_kind if steps.kind == CACHED)
    skips = min(max(0, round(share * stage.steps) - known), stage.undecided_steps)
    kinds = _counted(stage.steps_by_kind, stage.undecided_steps, skips)
    return replace(stage, **_decided(kinds, TOPOLOGIES[topology]))


def _counted(kinds: Iterable[PlannedSteps], undecided: int, skips: int) -> tuple[PlannedSteps, ...]:
    more = {FULL: undecided - skips, CACHED: skips}
    return tuple(replace(steps, count=steps.count + more.get(steps.kind, 0)) for steps in kinds)


def _decided(kinds: Sequence[PlannedSteps], topology: Topology) -> Totals:
    """What steps come to of which all kinds are known."""
    peak = topology.chips * topology.chip.peak_bf16_flops
    bandwidth = topology.chips * topology.chip.hbm_bandwidth_bytes_per_second
    flops = sum(steps.count * steps.flops for steps in kinds)
    moved_bytes = sum(steps.count * steps.moved_bytes for steps in kinds)
    seconds = _all_of((steps.count, steps.estimated_seconds) for steps in kinds)
    spent = _sums((steps.count, steps.estimate) for steps in kinds)
    sent = _sums((steps.count, steps.collective_bytes) for steps in kinds)
    return {
        "steps": sum(steps.count for steps in kinds),
        "flops": flops,
        "moved_bytes": moved_bytes,
        "roofline_seconds": max(flops / peak, moved_bytes / bandwidth),
        "estimated_seconds": seconds,
        "estimated_mfu": flops / (seconds * peak) if seconds else None,
        "collective_bytes": None if sent is None else {kind: round(count) for kind, count in sent.items()},
        "estimate": None if spent is None else dict(sorted(spent.items(), key=lambda item: -item[1])),
        "steps_by_kind": tuple(kinds),
        "undecided_steps": 0,
    }


def _all_of(each: Iterable[tuple[int, float | None]]) -> float | None:
    """The sum of so many of each; None where one of them is not known."""
    total = 0.0
    for count, value in each:
        if count and value is None:
            return None
        total += count * (value or 0.0)
    return total


def _sums(each: Iterable[tuple[int, Mapping[str, float] | None]]) -> dict[str, float] | None:
    """The sums of so many of each by what they are of; None where one is not known."""
    total: defaultdict[str, float] = defaultdict(float)
    for count, values in each:
        if count and values is None:
            return None
        for name, value in (values or {}).items() if count else ():
            total[name] += count * value
    return dict(total)
