"""The sampling loop: all sources into one `Snapshot`, at a rate, while somebody listens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from crystools_tpu.monitor.snapshot import Snapshot, SourceHealth, merge_chips
from crystools_tpu.monitor.worker import PROMPT_SECONDS, SourceWorker
from crystools_tpu.sources.base import AttachedChips, Reading, Source
from crystools_tpu.telemetry.guard import Guard

_log = logging.getLogger(__name__)

MIN_INTERVAL_SECONDS = 0.1
MAX_INTERVAL_SECONDS = 60.0


def check_interval(seconds: float) -> float:
    """The interval if it is allowed, in seconds. Raises `ValueError` if not."""
    if not MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS:
        raise ValueError(
            f"interval_seconds must be from {MIN_INTERVAL_SECONDS:g} to {MAX_INTERVAL_SECONDS:g}, "
            f"got {seconds:g}"
        )
    return float(seconds)


class Monitor:
    """Samples `sources` every `interval_seconds` while it is started and has a subscriber.

    For each chip and field the first source, in the order given, that knows a value wins. A source that
    hangs, raises or is absent touches only its own fields: a snapshot waits for nobody longer than 50 ms,
    and for a source known to be slow not at all. The monitor owns its sources: `stop` closes them, and a
    stopped monitor stays stopped.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        interval_seconds: float = 0.5,
        deadline_seconds: float = 1.0,
        simulated: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._workers = [
            SourceWorker(source, deadline_seconds=deadline_seconds, clock=clock) for source in sources
        ]
        self._interval_seconds = check_interval(interval_seconds)
        self._deadline_seconds = deadline_seconds
        self._simulated = simulated
        self._clock = clock
        self._lock = threading.Lock()
        self._sampling = threading.Lock()
        self._subscribers: dict[object, tuple[Callable[[Snapshot], None], Guard]] = {}
        self._guard = Guard(_log)
        self._started = False
        self._stopped = False
        self._loop_stop: threading.Event | None = None
        self._loop_thread: threading.Thread | None = None
        self._snapshot: Snapshot | None = None
        self._sampled_at = 0.0
        self.samples_total = 0
        """Snapshots taken so far."""

    @property
    def interval_seconds(self) -> float:
        """Seconds between samples, 0.1 to 60. Setting it takes effect at once."""
        return self._interval_seconds

    @interval_seconds.setter
    def interval_seconds(self, seconds: float) -> None:
        interval = check_interval(seconds)
        with self._lock:
            self._interval_seconds = interval
            self._stop_loop()
            self._start_loop()

    def unix_seconds(self) -> float:
        """The time of day by the clock of its snapshots."""
        return self._clock()

    def start(self) -> None:
        """Allows sampling. Starts a thread only if somebody has subscribed already."""
        with self._lock:
            self._started = True
            self._start_loop()

    def stop(self) -> None:
        """Ends sampling, joins the threads and closes the sources. A source that hangs is left behind."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._stop_loop()
        if self._loop_thread is not None and self._loop_thread is not threading.current_thread():
            self._loop_thread.join()
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join()

    def subscribe(self, callback: Callable[[Snapshot], None]) -> Callable[[], None]:
        """Calls `callback` with every snapshot, on the sampling thread. Returns the way to unsubscribe."""
        key = object()
        with self._lock:
            self._subscribers[key] = callback, Guard(_log)
            self._start_loop()

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers.pop(key, None)
                if not self._subscribers:
                    self._stop_loop()

        return unsubscribe

    def sample(self, max_age_seconds: float) -> Snapshot:
        """The last snapshot if it is young enough, else one taken now. May block for one deadline."""
        with self._sampling:
            age = time.monotonic() - self._sampled_at
            if self._snapshot is not None and age <= max_age_seconds:
                return self._snapshot
            # Where the loop runs, nothing may hold it up; alone, a sample had better be complete.
            return self._take(PROMPT_SECONDS if self._loop_stop else self._deadline_seconds)

    @property
    def latest(self) -> Snapshot | None:
        """The last snapshot, however old; None where none was taken. Asks no source."""
        return self._snapshot

    def health(self) -> tuple[SourceHealth, ...]:
        """How each source stands, in the order of the sources. Asks none of them."""
        return tuple(worker.state()[1] for worker in self._workers)

    def attached(self) -> AttachedChips | None:
        """The chips that were found attached when sources were last read. Asks none of them."""
        return _attached(worker.state()[0] for worker in self._workers)

    def _start_loop(self) -> None:
        if not self._started or self._stopped or not self._subscribers or self._loop_stop is not None:
            return
        self._loop_stop = threading.Event()
        self._loop_thread = threading.Thread(
            target=self._loop, args=(self._loop_stop,), name="crystools-tpu-monitor", daemon=True
        )
        self._loop_thread.start()

    def _stop_loop(self) -> None:
        if self._loop_stop is not None:
            self._loop_stop.set()
            self._loop_stop = None

    def _loop(self, stop: threading.Event) -> None:
        while True:
            with self._guard("a sample could not be taken"):
                self._publish(stop)
            if stop.wait(self._interval_seconds):
                return

    def _publish(self, stop: threading.Event) -> None:
        with self._sampling:
            snapshot = self._take(PROMPT_SECONDS)
        with self._lock:
            subscribers = () if stop.is_set() else tuple(self._subscribers.values())
        for callback, guard in subscribers:
            with guard("a subscriber to the monitor raised"):
                callback(snapshot)

    def _take(self, patience_seconds: float) -> Snapshot:
        patience_ends = time.monotonic() + patience_seconds
        asked = [worker for worker in self._workers if worker.ask(self._interval_seconds)]
        for worker in asked:
            worker.wait(patience_ends - time.monotonic())
        states = [worker.state() for worker in self._workers]
        readings = [reading for reading, _ in states if reading is not None]
        self._snapshot = Snapshot(
            time_unix_seconds=self._clock(),
            simulated=self._simulated,
            chips=merge_chips(readings),
            host=next((reading.host for reading in readings if reading.host), None),
            sources=tuple(health for _, health in states),
            attached=_attached(readings),
            histograms=next((reading.histograms for reading in readings if reading.histograms), None),
        )
        self._sampled_at = time.monotonic()
        self.samples_total += 1
        return self._snapshot


def _attached(readings: Iterable[Reading | None]) -> AttachedChips | None:
    return next((reading.attached for reading in readings if reading is not None and reading.attached), None)
