"""The steps of a stage: statistics of their times, and the ETA of those to come, each kind apart."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from crystools_tpu.telemetry.events import FIRST, FULL, StageReport, StepRecord, StepSeconds

# The ETA follows the last steps of a kind: it notices a change of speed, and costs the same at any length.
_LATEST_STEPS = 16


def step_statistics(records: Iterable[StepRecord]) -> StepSeconds | None:
    """Statistics of the steps that `timed_seconds` has; None where there is none. p95 is the nearest rank."""
    return statistics_of(timed_seconds(records))


def timed_seconds(records: Iterable[StepRecord]) -> list[float]:
    """The seconds of the steps in which nothing else fell, no compile and no start, shortest first."""
    return sorted(record.seconds for record in records if is_timed(record))


def is_timed(step: StepRecord) -> bool:
    """Whether the step's seconds are those of the step alone."""
    return not step.compiled and step.kind != FIRST


def statistics_of(seconds: Sequence[float]) -> StepSeconds | None:
    """Statistics of seconds that are sorted; None where there are none."""
    if not seconds:
        return None
    p95 = seconds[-(-95 * len(seconds) // 100) - 1]
    return StepSeconds(statistics.median(seconds), p95, seconds[0], seconds[-1])


class Eta:
    """The ETA of one stage. `planned` are its steps by kind, None where that is not known.

    The forecast is of the mean step. It counts as one step of each kind, as if it were the one before the
    first of them.
    """

    def __init__(self, planned: Mapping[str, int] | None, predicted_step_seconds: float | None) -> None:
        self._planned = planned
        self._predicted = predicted_step_seconds
        self._done: defaultdict[str, int] = defaultdict(int)
        self._latest: defaultdict[str, deque[StepRecord]] = defaultdict(lambda: deque(maxlen=_LATEST_STEPS))

    def add(self, step: StepRecord) -> None:
        """Takes the stage's next step."""
        self._done[step.kind] += 1
        self._latest[step.kind].append(step)

    @property
    def seconds(self) -> float | None:
        """The time to go, from the end of the last step on.

        None where the steps to come are not known (a step of a kind that was not planned shows that), where
        a kind among them has neither been timed nor forecast, and where nothing has.
        """
        if self._planned is None or not self._done.keys() <= self._planned.keys():
            return None
        known = None
        for kind, planned in self._planned.items():
            to_come, seconds = max(0, planned - self._done[kind]), self._step_seconds(kind)
            if seconds is not None:
                known = (known or 0.0) + seconds * to_come
            elif to_come:
                return None
        return known

    def _step_seconds(self, kind: str) -> float | None:
        """The median of the latest steps of the kind; those in which a compile fell are left out."""
        seconds = [step.seconds for step in self._latest[kind] if not step.compiled]
        if self._predicted is not None and self._done[kind] < _LATEST_STEPS:
            seconds.append(self._predicted)
        return statistics.median(seconds) if seconds else None


def planned_steps(stage: StageReport) -> Mapping[str, int] | None:
    """The stage's steps by kind; None where it has not said how many there are to be."""
    if stage.steps_by_kind is not None or stage.steps_total is None:
        return stage.steps_by_kind
    return {FULL: stage.steps_total}


def eta_seconds(stage: StageReport) -> float | None:
    """The ETA of a stage by what is known of it, from the end of its last step on."""
    eta = Eta(planned_steps(stage), stage.predicted_step_seconds)
    for step in stage.steps:
        eta.add(step)
    return eta.seconds
