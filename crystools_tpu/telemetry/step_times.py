"""Statistics over the steps of a stage, of those in which no compile fell."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from crystools_tpu.telemetry.events import StepRecord, StepSeconds


def step_statistics(records: Iterable[StepRecord]) -> StepSeconds | None:
    """Over the steps in which no compile fell; None where there is none. p95 is the nearest rank."""
    return statistics_of(timed_seconds(records))


def timed_seconds(records: Iterable[StepRecord]) -> list[float]:
    """The seconds of the steps in which no compile fell, shortest first."""
    return sorted(record.seconds for record in records if not record.compiled)


def statistics_of(seconds: Sequence[float]) -> StepSeconds | None:
    """Of seconds that are sorted; None where there are none."""
    if not seconds:
        return None
    p95 = seconds[-(-95 * len(seconds) // 100) - 1]
    return StepSeconds(statistics.median(seconds), p95, seconds[0], seconds[-1])
