"""Follows in the history what other processes do, while they do it.

They write what has changed every half second. Whether anybody has written at all costs microseconds to know,
and no more is asked as long as nobody has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from crystools_exporters.run_log import RunLog, UnreadableRun
from crystools_tpu.telemetry import RunReport, Status
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
"""Between two looks: with the half second of who writes, a change is told within one."""

JUDGE_SECONDS: Final = 2.0
"""Between two looks whether the processes of runs in progress are still there, which nobody writes."""

# A report of many thousand steps takes its time to read: no more than this share of a core.
_MOST_OF_THE_CPU: Final = 0.05


class Changes:
    """What other processes have written of their runs since it was asked for last."""

    def __init__(self, newest: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._newest = newest
        self._monotonic = monotonic
        self._known: dict[str, tuple[str, float]] = {}
        self._version: tuple[RunLog, int] | None = None
        self._judge_at = -float("inf")

    def read(self, log: RunLog) -> tuple[RunReport, ...]:
        """At first the `newest` runs and those in progress, then those that changed, in the order they began.

        What raises RunLogError has taken nothing away: it is among the next changes.
        """
        version, now = (log, log.version()), self._monotonic()
        if now >= self._judge_at:
            log.mark_interrupted()
            self._judge_at = now + JUDGE_SECONDS
        elif version == self._version:
            return ()
        in_progress = [run_id for run_id, (status, _) in self._known.items() if status == Status.RUNNING]
        states = log.others(self._newest, in_progress)
        changed = [run_id for run_id, state in states.items() if self._known.get(run_id) != state]
        reports = [_readable(log, run_id) for run_id in changed]
        self._known, self._version = states, version
        return tuple(report for report in reports if report is not None)


class Following:
    """Tells each change, in a thread of its own, until `stop`. Nothing that fails ends it."""

    def __init__(
        self,
        changes: Callable[[], Sequence[RunReport]],
        told: Callable[[RunReport], None],
        *,
        interval_seconds: float = POLL_SECONDS,
    ) -> None:
        self._changes = changes
        self._told = told
        self._interval_seconds = interval_seconds
        self._guard = Guard(logger)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crystools-tpu-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nothing is looked at any more. Returns at once."""
        self._stopping.set()

    @property
    def goes_on(self) -> bool:
        """Whether the thread has not ended yet."""
        return self._thread.is_alive()

    def join(self, timeout_seconds: float) -> None:
        """Waits until what is being looked at has been."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.thread_time()
            changed: Sequence[RunReport] = ()
            with self._guard("the runs of other processes cannot be followed"):
                changed = self._changes()
            for report in changed:
                with self._guard("a run of another process could not be told"):
                    self._told(report)
            spent = time.thread_time() - began
            self._stopping.wait(max(self._interval_seconds, spent / _MOST_OF_THE_CPU))


def _readable(log: RunLog, run_id: str) -> RunReport | None:
    """None for one that is broken, of another version, or was deleted meanwhile."""
    try:
        return log.report(run_id)
    except UnreadableRun:
        return None
