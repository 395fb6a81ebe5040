"""What a process that runs pipelines exports by itself: its history, and OTLP where it is set up."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crystools_exporters.following import Changes, Following
from crystools_exporters.retention import Retention, parse_retention
from crystools_exporters.run_log import Found, Kept, RunLog, RunLogError, UnreadableRun
from crystools_exporters.run_log_writer import RunLogWriter
from crystools_exporters.samples import Sampler
from crystools_tpu import telemetry
from crystools_tpu.data_dir import data_dir
from crystools_tpu.environment import HISTORY
from crystools_tpu.telemetry import Bus, History, RunFilter, RunReport
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.keeping import keeper

if TYPE_CHECKING:
    from crystools_exporters.otlp import OtlpExporter

logger = logging.getLogger(__name__)

# What can only be read is read as it was when it was opened: anew no more often than this.
_STALE_SECONDS: Final = 5.0

_CLOSE_SECONDS: Final = 5.0

# A search stops, and says where: it holds up others who read, and a request is not to last.
_SEARCH_SECONDS: Final = 0.25


class KeptRuns:
    """The history as a server reads it: opened when first asked, and empty while it cannot be read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log: RunLog | None = None
        self._failed = False
        self._stale_at = 0.0
        self._lock = threading.Lock()
        self._following: list[Following] = []

    def page(self, limit: int, before: str | None = None) -> tuple[tuple[RunReport, ...], tuple[str, ...]]:
        """`RunLog.read_page`; runs whose process is no more are `interrupted`."""
        with self._logged(), self._opened() as log:
            log.mark_interrupted()
            return log.read_page(limit, before)
        return (), ()

    def report(self, run_id: str) -> RunReport | None:
        """`RunLog.report`; None for one that cannot be read, too."""
        with self._logged(), self._opened() as log, contextlib.suppress(UnreadableRun):
            log.mark_interrupted()
            return log.report(run_id)
        return None

    def search(self, chosen: RunFilter, limit: int, before: str | None = None) -> Found:
        """`RunLog.search`, for a moment."""
        with self._logged(), self._opened() as log:
            log.mark_interrupted()
            return log.search(chosen, limit, before, seconds=_SEARCH_SECONDS)
        return Found((), (), None)

    def attachment(self, run_id: str, kind: str) -> Kept | None:
        """`RunLog.attachment`."""
        with self._logged(), self._opened() as log:
            return log.attachment(run_id, kind)
        return None

    def was_made_here(self, report: RunReport) -> bool:
        """`RunLog.was_made_here`."""
        with self._logged(), self._opened() as log:
            return log.was_made_here(report)
        return False

    def alike(self, report: RunReport) -> tuple[RunReport, ...]:
        """`RunLog.alike`."""
        with self._logged(), self._opened() as log:
            return log.alike(report)
        return ()

    def earlier(self, report: RunReport) -> tuple[RunReport, ...]:
        """`RunLog.earlier`."""
        with self._logged(), self._opened() as log:
            return log.earlier(report)
        return ()

    def follow(self, newest: int, told: Callable[[RunReport], None]) -> Callable[[], None]:
        """Tells the `newest` runs of other processes, and from then on each as it changes.

        In a thread of its own, until the function that it returns is called.
        """
        changes = Changes(newest)

        def read() -> Sequence[RunReport]:
            with self._logged(), self._opened() as log:
                return changes.read(log)
            return ()

        following = Following(read, told)
        self._following = [*(each for each in self._following if each.goes_on), following]
        return following.stop

    def close(self) -> None:
        """Follows no run any more, and closes the file."""
        for following in self._following:
            following.stop()
        for following in self._following:
            following.join(_CLOSE_SECONDS)
        self._forget()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[RunLog]:
        with self._lock:
            if self._log is not None and self._is_due(self._log) and self._log.is_outdated:
                self._forget()
            if self._log is None:
                self._log = RunLog(self._folder)
                self._stale_at = time.monotonic() + _STALE_SECONDS
            try:
                yield self._log
            except RunLogError:  # it may be another one, or whole, when it is opened next
                self._forget()
                raise

    def _is_due(self, log: RunLog) -> bool:
        return not log.read_only or time.monotonic() > self._stale_at

    def _forget(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        try:
            yield
        except RunLogError as error:
            if not self._failed:
                logger.warning("%s", error)
            self._failed = True


@contextlib.contextmanager
def exporting(
    environ: Mapping[str, str] = os.environ,
    *,
    bus: Bus = telemetry.bus,
    history: History = telemetry.history,
    monitor: Sampler | None = None,
    simulated: str | None = None,
) -> Iterator[KeptRuns | None]:
    """For as long as the block lasts, this process's runs go into the history, which is what it yields.

    None where the environment turns it off. Where it names an OTLP receiver the runs go there too, and the
    machine as `monitor` sees it. Nothing that fails here reaches the runs. What exports a process's runs by
    default rests meanwhile.
    """
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(_exporting(environ, bus, history, monitor, simulated))
        if bus is telemetry.bus and history is telemetry.history:
            stack.enter_context(keeper.replaced(history.running))
        yield kept


def exporting_by_default() -> contextlib.AbstractContextManager[object]:
    """What `telemetry.run` begins by itself, which knows it by this name alone."""
    return _exporting(os.environ, telemetry.bus, telemetry.history, None, None)


@contextlib.contextmanager
def _exporting(
    environ: Mapping[str, str],
    bus: Bus,
    history: History,
    monitor: Sampler | None,
    simulated: str | None,
) -> Iterator[KeptRuns | None]:
    guard = Guard(logger)
    otlp: OtlpExporter | None = None
    with guard("nothing is exported over OTLP"):
        otlp = _otlp(environ, bus, monitor, simulated)
    try:
        with _keeping(environ, bus, history) as kept:
            yield kept
    finally:
        with guard("the OTLP exporter could not be ended"):
            if otlp is not None:
                otlp.close()


def _otlp(
    environ: Mapping[str, str], bus: Bus, monitor: Sampler | None, simulated: str | None
) -> OtlpExporter | None:
    """Imports nothing where no receiver is named: most runs go nowhere, and their first is waited for."""
    if not any(name.startswith("OTEL_EXPORTER_OTLP_") for name in environ):
        return None
    from crystools_exporters.otlp import otlp_exporter

    return otlp_exporter(monitor, bus=bus, simulated=simulated, environ=environ)


@contextlib.contextmanager
def _keeping(environ: Mapping[str, str], bus: Bus, history: History) -> Iterator[KeptRuns | None]:
    chosen = environ.get(HISTORY, "")
    if chosen == "off":
        yield None
        return
    folder, retention, guard = data_dir(environ), _retention(chosen), Guard(logger)

    def open_log() -> RunLog:
        log = RunLog(folder)
        with guard("the run history could not be tidied"):
            log.prune(max_age_seconds=retention.max_age_seconds, max_bytes=retention.max_bytes)
        return log

    writer = RunLogWriter(open_log, bus=bus, history=history)
    kept = KeptRuns(folder)
    try:
        yield kept
    finally:
        with guard("the run history could not be closed"):
            writer.close()
            kept.close()


@contextlib.contextmanager
def kept_runs(environ: Mapping[str, str] = os.environ) -> Iterator[KeptRuns | None]:
    """The history to be read, for as long as the block lasts; None where the environment turns it off."""
    if environ.get(HISTORY) == "off":
        yield None
        return
    with contextlib.closing(KeptRuns(data_dir(environ))) as kept:
        yield kept


def _retention(text: str) -> Retention:
    try:
        return parse_retention(text) if text else Retention()
    except ValueError as error:
        logger.warning("%s: %s; the default is used", HISTORY, error)
        return Retention()
