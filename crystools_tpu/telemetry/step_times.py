"""The steps of a stage: statistics of their times, and the ETA of those to come, each kind apart."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from crystools_tpu.telemetry.events import (
    CACHED,
    FIRST,
    FULL,
    StageProgress,
    StageReport,
    StepRecord,
    StepSeconds,
)
from crystools_tpu.telemetry.skips import Skips

# The ETA follows the last steps of a kind: it notices a change of speed, and costs the same at any length.
_LATEST_STEPS = 16

# What was not seen in so great a part of the steps, a quarter, is not expected of the others either.
_LEAST_PARTS = 4


def step_statistics(records: Iterable[StepRecord]) -> StepSeconds | None:
    """Statistics of the steps that were timed and not skipped; None where there is none."""
    return statistics_of_full(seconds_by_kind(records))


def statistics_by_kind(records: Iterable[StepRecord]) -> Mapping[str, StepSeconds] | None:
    """Statistics of each kind of which a step was timed; None where all of them were full ones."""
    return statistics_of_kinds(seconds_by_kind(records))


def full_seconds(kinds: Mapping[str, Sequence[float]]) -> Sequence[float]:
    """Of the seconds by kind, each sorted, those of steps that were not skipped, shortest first."""
    full = [seconds for kind, seconds in kinds.items() if kind != CACHED]
    return full[0] if len(full) == 1 else sorted(itertools.chain.from_iterable(full))


def seconds_by_kind(records: Iterable[StepRecord]) -> dict[str, list[float]]:
    """The seconds of the steps of each kind that were timed, shortest first."""
    kinds: defaultdict[str, list[float]] = defaultdict(list)
    for record in records:
        if is_timed(record):
            kinds[record.kind].append(record.seconds)
    return {kind: sorted(seconds) for kind, seconds in kinds.items()}


def is_timed(step: StepRecord) -> bool:
    """Whether the step's seconds are those of the step alone: no compile fell in it, and no start."""
    return not step.compiled and step.kind != FIRST


def statistics_of_full(kinds: Mapping[str, Sequence[float]]) -> StepSeconds | None:
    """Statistics of the seconds by kind, each sorted, but for steps that were skipped; None without any."""
    return _statistics_of(full_seconds(kinds))


def _statistics_of(seconds: Sequence[float]) -> StepSeconds | None:
    """Statistics of seconds that are sorted; None where there are none. p95 is the nearest rank."""
    if not seconds:
        return None
    p95 = seconds[-(-95 * len(seconds) // 100) - 1]
    return StepSeconds(statistics.median(seconds), p95, seconds[0], seconds[-1])


def statistics_of_kinds(kinds: Mapping[str, Sequence[float]]) -> Mapping[str, StepSeconds] | None:
    """Statistics of each kind's seconds, which are sorted; None where all are of full steps."""
    if kinds.keys() <= {FULL}:
        return None
    known = {kind: _statistics_of(seconds) for kind, seconds in sorted(kinds.items())}
    return {kind: each for kind, each in known.items() if each is not None}


def step_medians(stage: StageReport | StageProgress) -> Mapping[str, float]:
    """What a step of each kind takes of which one was timed."""
    if stage.step_seconds_by_kind is not None:
        return {kind: seconds.median for kind, seconds in stage.step_seconds_by_kind.items()}
    return {} if stage.step_seconds is None else {FULL: stage.step_seconds.median}


def seconds_of_steps(stage: StageReport) -> float | None:
    """What all steps took without compiles, each as the median of its kind; None where one is not known."""
    medians, kinds = step_medians(stage), Counter(step.kind for step in stage.steps)
    if stage.step_seconds_by_kind is None and stage.step_seconds is not None:
        return stage.step_seconds.median * len(stage.steps)
    if not kinds or not kinds.keys() <= medians.keys():
        return None
    return sum(medians[kind] * count for kind, count in kinds.items())


def mean_planned_seconds(stage: StageReport, timed: StageReport | StageProgress) -> float | None:
    """What a step takes in the mean of those that were planned; `timed` has the times. None where a kind of
    them was not timed."""
    medians = step_medians(timed)
    planned = stage.steps_by_kind or {FULL: 1}
    planned = {kind: count for kind, count in planned.items() if count}
    if not planned or not planned.keys() <= medians.keys():
        return None
    return sum(medians[kind] * count for kind, count in planned.items()) / sum(planned.values())


def count_cached(stage: StageReport) -> int:
    """How many of its steps so far a step cache has skipped."""
    return sum(step.kind == CACHED for step in stage.steps)


class Eta:
    """The ETA of one stage. `planned` are its steps by kind, None where that is not known.

    Where all were planned as full and a step cache skips some, which the device decides, those to come are
    as in `Skips`. Until the first of these have ended nobody knows, or a quarter of the steps is done.

    The forecast is of the mean step. Of steps of one kind it counts as one, as if it were the one before the
    first. Of several, kinds that were not timed take what the others leave of it.
    """

    def __init__(self, planned: Mapping[str, int] | None, predicted_step_seconds: float | None) -> None:
        self._planned = planned
        self._predicted = predicted_step_seconds
        self._done: Counter[str] = Counter()
        self._skips = Skips()
        self._device_decides = False
        self._latest: defaultdict[str, deque[StepRecord]] = defaultdict(lambda: deque(maxlen=_LATEST_STEPS))

    def add(self, step: StepRecord, *, device_decides: bool = False) -> None:
        """Takes the stage's next step, of which the device may have decided whether it was skipped."""
        self._device_decides = self._device_decides or device_decides
        self._done[step.kind] += 1
        self._skips.add(step.kind)
        self._latest[step.kind].append(step)

    @property
    def seconds(self) -> float | None:
        """The time to go, from the end of the last step on.

        None where the steps to come are not known (a step of a kind that was not planned shows that), where
        a kind among them has neither been timed nor forecast, and where nothing has.
        """
        to_come = self._to_come()
        if to_come is None:
            return None
        if self._is_vague(to_come):
            return None if self._predicted is None else self._predicted * sum(to_come.values())
        seconds = self._step_seconds(to_come)
        if not seconds or any(count and kind not in seconds for kind, count in to_come.items()):
            return None
        return sum(seconds[kind] * count for kind, count in to_come.items() if kind in seconds)

    def _to_come(self) -> Mapping[str, int] | None:
        planned, done = self._planned, self._done
        if planned is None:
            return None
        if done.keys() <= planned.keys():
            return {kind: max(0, count - done[kind]) for kind, count in planned.items()}
        if planned.keys() == {FULL} and done.keys() <= {FULL, CACHED}:
            return self._skips.to_come(max(0, planned[FULL] - done.total()))
        return None

    def _is_vague(self, to_come: Mapping[str, int]) -> bool:
        """Whether steps to come may well be skipped, and nothing says how many."""
        done = self._done.total()
        few = done * _LEAST_PARTS < done + sum(to_come.values())
        return self._device_decides and not self._skips.are_counted and few

    def _step_seconds(self, to_come: Mapping[str, int]) -> Mapping[str, float]:
        """What a step of each kind takes of which that is known."""
        timed = {kind: [step.seconds for step in self._latest[kind] if not step.compiled] for kind in to_come}
        if self._predicted is not None and len(to_come) == 1:
            (kind,) = to_come
            if self._done[kind] < _LATEST_STEPS:
                timed[kind].append(self._predicted)
        seconds = {kind: statistics.median(steps) for kind, steps in timed.items() if steps}
        if self._predicted is not None:
            counts = {kind: self._done[kind] + count for kind, count in to_come.items()}
            known = sum(seconds[kind] * counts[kind] for kind in seconds)
            others = sum(count for kind, count in counts.items() if kind not in seconds)
            if others:
                rest = max(0.0, self._predicted * sum(counts.values()) - known) / others
                seconds |= {kind: rest for kind in to_come if kind not in seconds}
        return seconds


def planned_steps(stage: StageReport) -> Mapping[str, int] | None:
    """The stage's steps by kind; None where it has not said how many there are to be."""
    if stage.steps_by_kind is not None or stage.steps_total is None:
        return stage.steps_by_kind
    return {FULL: stage.steps_total}


def eta_seconds(stage: StageReport) -> float | None:
    """The ETA of a stage by what is known of it, from the end of its last step on."""
    eta = Eta(planned_steps(stage), stage.predicted_step_seconds)
    for step in stage.steps:
        eta.add(step, device_decides=stage.device_decides)
    return eta.seconds
