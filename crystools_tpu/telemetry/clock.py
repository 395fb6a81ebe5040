"""A run's own clock, where it may be anybody's: what it could not tell is unknown, and no reason to fail."""

from __future__ import annotations

import datetime
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from crystools_tpu.telemetry.guard import Guard

UNKNOWN: Final = math.nan


def steady(clock: Callable[[], float], guard: Guard) -> Callable[[], float]:
    """The clock, but UNKNOWN where it raises, and from then on where it has gone back."""
    if clock is time.perf_counter:  # it does neither, and is read several times a step
        return clock
    return _Steady(clock, guard)


class _Steady:
    def __init__(self, clock: Callable[[], float], guard: Guard) -> None:
        self._clock = clock
        self._guard = guard
        self._lock = threading.Lock()
        self._latest = -math.inf

    def __call__(self) -> float:
        with self._guard("the clock could not be read"), self._lock:
            now = float(self._clock())
            if now < self._latest:
                self._latest = math.inf
                raise ValueError("it went back: no time is told after that")
            self._latest = now
            return now
        return UNKNOWN


def elapsed(start: float, end: float) -> float | None:
    """Seconds between two readings; None where one of them is unknown."""
    seconds = end - start
    return None if math.isnan(seconds) else seconds


def time_of_day(clock: Callable[[], float], guard: Guard) -> float:
    """Unix seconds by the clock, or by the system's where that one has no date."""
    with guard("the time of day could not be read"):
        now = float(clock())
        datetime.datetime.fromtimestamp(now, datetime.UTC)
        return now
    return time.time()


def iso_time(unix_seconds: float) -> str:
    """`2026-01-31T12:00:00.000+00:00`."""
    moment = datetime.datetime.fromtimestamp(unix_seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds")
