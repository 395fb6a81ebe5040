"""Where the seconds of a run went, in parts that add up and that can be set beside those of another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Final

from crystools_tpu.telemetry.events import RunReport, StageReport
from crystools_tpu.telemetry.stage_keys import Key, StageKeys
from crystools_tpu.telemetry.stage_tree import parent_of
from crystools_tpu.telemetry.step_times import is_timed, step_medians

RUNS_TO_JUDGE_BY: Final = 3
"""How many runs it takes to know by how much a figure changes by itself."""

_USUAL_DEVIATIONS: Final = 3


class Spent(StrEnum):
    """On what a stage spends its own seconds, which are those of none of its parts."""

    COMPILE = "compile"
    RECOMPILE = "recompile"
    """What the steps after the first took longer in which something was compiled."""
    HOST = "host"
    """What the devices waited for the host between steps."""
    STEPS = "steps"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Part:
    """Seconds of one stage; `stage` is None for what lies between the stages."""

    stage: StageReport | None
    on: Spent
    seconds: float


PartKey = tuple[Key | None, Spent]


def parts_of(run: RunReport, *, with_host: bool = True) -> Mapping[PartKey, Part]:
    """The parts of a run that has ended, in the order of its stages; together they are its seconds.

    Of stages that overlap nothing lies between. Without the host, what it was waited for is in the steps.
    """
    keys = StageKeys()
    own = _own_seconds(run.stages)
    parts: dict[PartKey, Part] = {}
    for stage, seconds in zip(run.stages, own, strict=True):
        key = keys.add(stage)
        if seconds is not None:
            for on, spent in _split(stage, seconds, with_host=with_host).items():
                parts[key, on] = Part(stage, on, spent)
    known = [seconds for seconds in own if seconds is not None]
    if run.total_seconds is not None and len(known) == len(own):
        parts[None, Spent.REST] = Part(None, Spent.REST, max(0.0, run.total_seconds - sum(known)))
    return parts


@dataclass(frozen=True, slots=True)
class Change:
    """A part of a run beside the median of the same part in others, which is 0 where they have none.

    `usual_stage` is the stage in the run that took nearest to that, of those that have it.
    """

    part: Part
    usual_seconds: float
    beyond_spread: bool
    usual_stage: StageReport | None

    @property
    def seconds(self) -> float:
        """How much longer it took."""
        return self.part.seconds - self.usual_seconds


def changes_of(run: RunReport, others: Sequence[RunReport]) -> tuple[Change, ...]:
    """The parts of the run, and those of the others alone, each beside what the others took."""
    with_host = all(_knows_host(each) for each in (run, *others))
    own = parts_of(run, with_host=with_host)
    usual = [parts_of(other, with_host=with_host) for other in others]
    stages = [{key: part.stage for (key, _), part in parts.items()} for parts in usual]
    changes = []
    for key in dict.fromkeys([*own, *(key for parts in usual for key in parts)]):
        seconds = [parts[key].seconds if key in parts else 0.0 for parts in usual]
        middle = median(seconds) if seconds else 0.0
        having = [number for number, known in enumerate(stages) if key[0] in known]
        nearest = min(having, key=lambda number: abs(seconds[number] - middle), default=None)
        usual_stage = None if nearest is None else stages[nearest][key[0]]
        part = own.get(key) or Part(usual_stage, key[1], 0.0)
        changes.append(Change(part, middle, _is_beyond(part.seconds, middle, seconds), usual_stage))
    return tuple(changes)


def _is_beyond(own: float, middle: float, seconds: Sequence[float]) -> bool:
    """Whether it is three times as far from the middle as usual; one run that is far off widens nothing."""
    if len(seconds) < RUNS_TO_JUDGE_BY:
        return True
    return abs(own - middle) > _USUAL_DEVIATIONS * median(abs(each - middle) for each in seconds)


def _knows_host(run: RunReport) -> bool:
    """A report of before it was measured does not."""
    return all(stage.host_wait_seconds is not None for stage in run.stages if stage.step_seconds)


def _own_seconds(stages: Sequence[StageReport]) -> list[float | None]:
    """What each stage took without its parts; None where it is not known."""
    own = [stage.seconds for stage in stages]
    for position, stage in enumerate(stages):
        above = parent_of(stages, position)
        if above is not None and stage.seconds is not None:
            before = own[above]
            own[above] = None if before is None else before - stage.seconds
    return [None if seconds is None else max(0.0, seconds) for seconds in own]


def _split(stage: StageReport, seconds: float, *, with_host: bool) -> dict[Spent, float]:
    """A stage's own seconds by what they were spent on; what they were not spent on is left out."""
    usual = step_medians(stage)
    compiled = sum(usual.get(record.kind, 0.0) for record in stage.steps if record.compiled)
    recompile = sum(cost for _, cost in recompiled_steps(stage))
    host = (stage.host_wait_seconds or 0.0) if with_host else 0.0
    steps = sum(record.seconds for record in stage.steps if is_timed(record)) - host + compiled
    split = {
        Spent.COMPILE: max(0.0, stage.compile_seconds - recompile),
        Spent.RECOMPILE: recompile,
        Spent.HOST: host,
        Spent.STEPS: max(0.0, steps),
    }
    split[Spent.REST] = max(0.0, seconds - sum(split.values()))
    return {on: spent for on, spent in split.items() if spent > 0}


def recompiled_steps(stage: StageReport) -> list[tuple[int, float]]:
    """The steps after the first in which something was compiled, and how much longer each took than a usual
    one of its kind; none of those of which no usual one is known."""
    usual = step_medians(stage)
    return [
        (number, max(0.0, record.seconds - usual[record.kind]))
        for number, record in enumerate(stage.steps)
        if number > 0 and record.compiled and record.kind in usual
    ]
