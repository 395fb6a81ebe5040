"""Writes the runs of this process into the history as they go, in a thread that lives from the first event.

The publishers' threads do no more than note which run has changed; nothing that happens to the file reaches
them. What cannot be written now (a full disk, a locked file) is tried again until it can. A report that never
can be costs no other run its place: it is kept without what it was made of, or said to be lost.
"""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from crystools_exporters.heartbeats import BEAT_SECONDS
from crystools_exporters.run_log import Kept, RunLog, RunLogError
from crystools_tpu.telemetry import (
    Bus,
    Event,
    History,
    ProfileChanged,
    RunAttached,
    RunChanged,
    RunFinished,
    RunReport,
    RunStarted,
    Status,
)
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.keeping import keeper
from crystools_tpu.telemetry.text import describe_error

logger = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 0.5
"""Between two writes of a run in progress: what a killed process loses, with a margin to a second."""

# A report of many thousand steps takes its time to write: no more than this share of a core.
_MOST_OF_THE_CPU: Final = 0.05

_FIRST_RETRY_SECONDS: Final = 1.0
_LAST_RETRY_SECONDS: Final = 30.0

_UNWRITTEN_KEPT: Final = 100

# Of runs that have ended more may be heard: what they made, and what is to be kept with them.
_ENDED_KNOWN: Final = 100

_MOST_ATTACHED_BYTES: Final = 1024**2

# What SQLite says of a row that it cannot take, however often it is tried.
_FAULTS_OF_A_REPORT: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)


class RunLogWriter:
    """Writes from its making until `close`, which writes the rest.

    Runs that are in progress when it begins are written on. `open_log` opens the history; it is called in the
    thread, and again after it has failed. `left_out` has the ids of the runs that are not to be kept.
    """

    def __init__(
        self,
        open_log: Callable[[], RunLog],
        *,
        bus: Bus,
        history: History,
        interval_seconds: float = INTERVAL_SECONDS,
        left_out: Collection[str] = keeper.left_out,
    ) -> None:
        self._open_log = open_log
        self._history = history
        self._left_out = left_out
        self._interval_seconds = interval_seconds
        self._log: RunLog | None = None
        self._lock = threading.Lock()
        self._running: set[str] = set()  # with changes that are not written yet
        self._in_progress: set[str] = set()
        self._beat_at = 0.0
        self._ended: dict[str, RunReport] = {}
        self._known_to_have_ended: dict[str, None] = {}
        self._attached: dict[tuple[str, str], RunAttached] = {}
        self._failures = 0
        self._guard = Guard(logger)
        self._told: set[str] = set()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._subscription = bus.subscribe(wakeup=self._note_events)
        self._note_running()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Writes what is left, once, and ends the thread."""
        self._subscription.close()
        self._closing.set()
        self._changed.set()
        if self._thread is None:
            return
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            logger.warning("the run history is slow: its last writes may be lost")

    def _note_events(self) -> None:
        with self._lock:
            for event in self._subscription.drain():
                self._note(event)
            self._wake()

    def _note_running(self) -> None:
        with self._guard("the runs in progress are not written on"), self._lock:
            in_progress = {run.run_id for run in self._history.running()}.difference(self._left_out)
            self._in_progress |= in_progress
            self._running |= in_progress
            self._wake()

    def _note(self, event: Event) -> None:
        if isinstance(event, ProfileChanged):
            return
        if isinstance(event, RunStarted | RunChanged | RunFinished):
            run_id: str | None = event.report.run_id
        else:
            run_id = event.run_id
        if run_id is None or run_id in self._left_out:
            return
        if isinstance(event, RunFinished):
            self._running.discard(run_id)
            self._in_progress.discard(run_id)
            self._ended[run_id] = event.report
            self._known_to_have_ended[run_id] = None
            while len(self._known_to_have_ended) > _ENDED_KNOWN:
                del self._known_to_have_ended[next(iter(self._known_to_have_ended))]
            return
        if isinstance(event, RunAttached):
            if run_id in self._in_progress or run_id in self._known_to_have_ended:
                self._attached[run_id, event.attachment.kind] = event
            return
        if isinstance(event, RunChanged) and event.report.status is not Status.RUNNING:
            if run_id in self._known_to_have_ended:
                self._ended[run_id] = event.report
            return
        if isinstance(event, RunStarted):
            self._in_progress.add(run_id)
        self._running.add(run_id)

    def _wake(self) -> None:
        """Has what was noted written; by a thread that is not there before there is anything to write."""
        if not self._running and not self._ended and not self._attached:
            return
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="crystools-tpu-run-log", daemon=True)
            thread.start()
            self._thread = thread
        self._changed.set()

    def _run(self) -> None:
        try:
            while True:
                self._changed.wait(BEAT_SECONDS if self._in_progress else None)
                if self._closing.is_set():
                    break
                self._changed.clear()
                began = time.thread_time()
                if self._write_changes():
                    spent = time.thread_time() - began
                    self._rest(max(self._interval_seconds, spent / _MOST_OF_THE_CPU))
                else:
                    self._closing.wait(min(_FIRST_RETRY_SECONDS * 2**self._failures, _LAST_RETRY_SECONDS))
            self._write_changes()
        finally:
            if self._log is not None:
                self._log.close()

    def _write_changes(self) -> bool:
        """Whether all that has changed is in the history now; what is not stays noted."""
        with self._lock:
            running, self._running = self._running, set()
            ended, self._ended = self._ended, {}
            attached, self._attached = self._attached, {}
        try:
            reports = [*self._unfinished(running - ended.keys()), *ended.values()]
            if reports:
                self._write(self._opened(), reports)
            for event in attached.values():
                self._attach(self._opened(), event)
            self._beat()
        except Exception as error:  # noqa: BLE001 - whatever it is, later runs are not to be lost by it
            self._keep(running, ended, attached)
            if self._failures == 0:
                what = str(error) if isinstance(error, RunLogError) else str(describe_error(error))
                logger.warning("%s. Runs go on, and are written once they can be", what.rstrip("."))
            self._failures += 1
            return False
        if self._failures:
            logger.warning("the run history %s is written again", self._opened().path)
        self._failures = 0
        return True

    def _unfinished(self, run_ids: Iterable[str]) -> list[RunReport]:
        reports = []
        for run_id in run_ids:
            with self._guard("a run in progress could not be read for the history"):
                reports.append(self._history.report(run_id))
        return [report for report in reports if report is not None]

    def _write(self, log: RunLog, reports: list[RunReport]) -> None:
        """Writes the reports; where one of them cannot be, the others and what can be of that one."""
        if _fault(log, reports) is None:
            return
        for report in reports:
            if (fault := _fault(log, [report])) is None:
                continue
            bare = dataclasses.replace(report, params={}, stages=(), device=None, forecast=None)
            lost = _fault(log, [bare]) is not None
            if report.run_id not in self._told:  # a run is written many times
                self._told.add(report.run_id)
                outcome = "is lost to it" if lost else "is kept without its stages and parameters"
                logger.warning(
                    "run %s cannot be written to the history and %s: %s",
                    report.run_id,
                    outcome,
                    describe_error(fault),
                )

    def _attach(self, log: RunLog, event: RunAttached) -> None:
        """Makes what is to be kept with a run, and keeps it. Raises where it is the history that cannot."""
        run_id, attachment = event.run_id, event.attachment
        body: bytes | None = None
        with self._guard(f"a {attachment.kind} could not be made"):
            body = attachment.make()
        if not body or len(body) > _MOST_ATTACHED_BYTES:
            return
        if log.attach(run_id, attachment.kind, Kept(attachment.media_type, body)):
            self._history.is_kept_with(run_id, attachment.kind)

    def _rest(self, seconds: float) -> None:
        """Waits so long; with a heartbeat meanwhile, where it is long."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0 and not self._closing.wait(min(left, BEAT_SECONDS)):
            with self._guard("the history could not be told that the runs go on"):
                self._beat()

    def _beat(self) -> None:
        """Says that the runs in progress go on; those that a reader took for interrupted are written anew."""
        with self._lock:
            in_progress = frozenset(self._in_progress)
        if not in_progress or time.monotonic() < self._beat_at:
            return
        taken = self._opened().beat(in_progress)
        self._beat_at = time.monotonic() + BEAT_SECONDS
        if taken:
            with self._lock:
                self._running |= in_progress & set(taken)
            self._changed.set()

    def _opened(self) -> RunLog:
        if self._log is not None and self._log.read_only:  # it may have become writable
            self._log.close()
            self._log = None
        if self._log is None:
            self._log = self._open_log()
        return self._log

    def _keep(
        self,
        running: set[str],
        ended: dict[str, RunReport],
        attached: dict[tuple[str, str], RunAttached],
    ) -> None:
        """For the next attempt, as many as may be kept; what has happened meanwhile is newer."""
        with self._lock:
            self._running |= running
            self._ended = {**ended, **self._ended}
            self._attached = {**attached, **self._attached}
            while len(self._attached) > _UNWRITTEN_KEPT:
                del self._attached[next(iter(self._attached))]
            while len(self._ended) > _UNWRITTEN_KEPT:
                lost = next(iter(self._ended))
                del self._ended[lost]
                logger.error("the run history could not be written for long: run %s is lost to it", lost)
        self._changed.set()


def _fault(log: RunLog, reports: list[RunReport]) -> Exception | None:
    """Writes the reports; why one of them cannot be. Raises where it is the history that cannot."""
    try:
        log.write(reports)
    except Exception as error:
        if isinstance(error, RunLogError) and not isinstance(error.__cause__, _FAULTS_OF_A_REPORT):
            raise
        return error
    return None
