"""One source, one thread: asks it, times it, and keeps its health apart from everybody else's."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from crystools_tpu.monitor.snapshot import SourceHealth, SourceState
from crystools_tpu.sources.base import Reading, Source, SourceError, SourceUnavailable
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.text import describe_error

_log = logging.getLogger(__name__)

ABSENT_RETRY_SECONDS = 5.0
"""The longest pause before a source that this machine lacks is asked again (it starts at one interval)."""

_UP: Final[Mapping[SourceState, bool | None]] = {
    "unread": None,
    "absent": None,
    "up": True,
    "idle": True,
    "waiting": None,
    "down": False,
}

PROMPT_SECONDS = 0.05
"""A source whose last answer took longer is not waited for: its answer goes into a later snapshot."""


class SourceWorker:
    """Runs one source's `read` on a daemon thread of its own, one read at a time.

    `deadline_seconds` after it was asked, a source that has not answered is down. It is not asked again
    while that read hangs; should the read still return, its answer counts. A source that failed is asked
    again at the next interval; one that is absent (`SourceUnavailable`) ever more rarely.
    """

    def __init__(self, source: Source, *, deadline_seconds: float, clock: Callable[[], float]) -> None:
        self._source = source
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answered = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._asked_at: float | None = None
        self._overdue = False
        self._interval_seconds = 0.0
        self._read_at = 0.0
        self._retry_at = 0.0
        self._absences = 0
        self._expected_seconds = 0.0
        self._reading: Reading | None = None
        self._health = SourceHealth(source.name, None, None, 0, None)

    def ask(self, interval_seconds: float) -> bool:
        """Starts a read, unless one is under way or it is too early to try again. Never blocks."""
        now = time.monotonic()
        with self._lock:
            self._check_deadline(now)
            if self._stopped or self._asked_at is not None or now < self._retry_at:
                return False
            self._asked_at = now
            self._interval_seconds = interval_seconds
            if now - self._read_at > 2 * interval_seconds + self._deadline_seconds:
                self._reading = None  # from before a pause: history, not a reading
            self._answered.clear()
            if self._thread is None and not self._start():
                return False
        self._requests.put(True)
        return True

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name=f"crystools-tpu-{self._source.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has none left; it may have later
            self._count_error(str(error))
            self._done("down", error=str(error), reading=None)
            return False
        self._thread = thread
        return True

    def wait(self, seconds: float) -> None:
        """Waits for the answer, unless this source is known to take longer."""
        if self._expected_seconds <= seconds:
            self._answered.wait(seconds)

    def state(self) -> tuple[Reading | None, SourceHealth]:
        """The newest reading, while it is down what is known all the same, and the source's health."""
        with self._lock:
            self._check_deadline(time.monotonic())
            return self._reading, self._health

    def stop(self) -> None:
        """Asks the thread to close the source and end. `join` waits for it."""
        with self._lock:
            self._stopped = True
        self._requests.put(False)

    def join(self) -> None:
        """Waits for the thread, at most one deadline; a source that hangs is left behind with a warning."""
        if self._thread is None:
            self._close_source()
            return
        self._thread.join(self._deadline_seconds)
        if self._thread.is_alive():
            _log.warning("source %s still hangs: its thread is abandoned", self._source.name)

    def _run(self) -> None:
        while self._requests.get():
            started = time.monotonic()
            try:
                reading = self._source.read()
                self._succeeded(reading, time.monotonic() - started)
            except SourceUnavailable as error:
                self._absent(str(error))
            except SourceError as error:
                self._failed(str(error), time.monotonic() - started, error.known)
            except Exception as error:  # noqa: BLE001  a fault in one source must not end its thread
                _log.debug("source %s raised", self._source.name, exc_info=True)
                self._failed(str(describe_error(error)), time.monotonic() - started)
            self._answered.set()
        self._close_source()

    def _close_source(self) -> None:
        with Guard(_log)(f"source {self._source.name} could not be closed"):
            self._source.close()

    def _succeeded(self, reading: Reading, seconds: float) -> None:
        with self._lock:
            if self._health.up is False:
                _log.info("source %s is back", self._source.name)
            quiet = reading.quiet
            self._done("up" if quiet is None else quiet.state, error=None, reading=reading)
            if quiet is not None:
                self._health = replace(self._health, reason=quiet.reason)
            if self._health.up:
                self._health = replace(self._health, last_success_unix_seconds=self._clock())
            self._expected_seconds = seconds
            self._absences = 0

    def _failed(self, message: str, seconds: float, known: Reading | None = None) -> None:
        with self._lock:
            # A read that missed its deadline was counted then; that it also ended badly is the same fault.
            if not self._overdue:
                self._count_error(message)
            self._done("down", error=message, reading=known)
            self._expected_seconds = seconds if seconds <= PROMPT_SECONDS else float("inf")

    def _absent(self, message: str) -> None:
        with self._lock:
            self._done("absent", error=message, reading=None)
            self._absences += 1
            pause = self._interval_seconds * 2.0 ** min(self._absences - 1, 10)
            self._retry_at = time.monotonic() + min(pause, ABSENT_RETRY_SECONDS)

    def _done(self, state: SourceState, *, error: str | None, reading: Reading | None) -> None:
        self._stand(state, error)
        self._reading = reading
        self._asked_at = None
        self._overdue = False
        self._read_at = time.monotonic()

    def _check_deadline(self, now: float) -> None:
        if self._asked_at is None or self._overdue or now - self._asked_at <= self._deadline_seconds:
            return
        self._overdue = True
        error = f"no answer within {self._deadline_seconds:g} s"
        self._expected_seconds = float("inf")
        self._count_error(error)
        self._stand("down", error)
        self._reading = None

    def _stand(self, state: SourceState, error: str | None) -> None:
        self._health = replace(self._health, up=_UP[state], state=state, error=error, reason=None)

    def _count_error(self, message: str) -> None:
        level = logging.DEBUG if self._health.up is False else logging.WARNING
        self._health = replace(self._health, errors_total=self._health.errors_total + 1)
        _log.log(level, "source %s is down: %s", self._source.name, message)
