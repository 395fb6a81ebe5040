"""The runs that the server knows: those of its own process, and those that all others keep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from crystools_tpu.telemetry import (
    Comparison,
    Explanation,
    History,
    RunFilter,
    RunReport,
    Status,
    compare,
    explain,
    newest_alike,
)
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)

_MOST_LOOKED_UP: Final = 64


class SearchedTo(Protocol):
    """Where a search stopped: at this run, which began then."""

    @property
    def run_id(self) -> str: ...

    @property
    def started_unix_seconds(self) -> float: ...


class KeptPage(Protocol):
    """What a search found, newest first, and the ids of what was left out."""

    @property
    def reports(self) -> Sequence[RunReport]: ...

    @property
    def unreadable(self) -> Sequence[str]: ...

    @property
    def searched_to(self) -> SearchedTo | None: ...


class Kept(Protocol):
    """What is kept with a run."""

    @property
    def media_type(self) -> str: ...

    @property
    def body(self) -> bytes: ...


class Found(NamedTuple):
    """A page of runs, as `KeptPage`."""

    reports: Sequence[RunReport]
    unreadable: Sequence[str]
    searched_to: SearchedTo | None


class KeptRuns(Protocol):
    """A history that outlives the process. It may block; what it cannot read it leaves out."""

    def page(self, limit: int, before: str | None = None) -> tuple[Sequence[RunReport], Sequence[str]]:
        """The newest runs, or those before run `before`, newest first; and the ids of what was left out."""

    def search(self, chosen: RunFilter, limit: int, before: str | None = None) -> KeptPage:
        """Those of them that are `chosen`; where it takes long, as far as it came."""

    def report(self, run_id: str) -> RunReport | None:
        """One run, if it is there."""

    def attachment(self, run_id: str, kind: str) -> Kept | None:
        """What is kept of that kind with a run, if anything."""

    def was_made_here(self, report: RunReport) -> bool:
        """Whether the files that the report names are this machine's."""

    def alike(self, report: RunReport) -> Sequence[RunReport]:
        """Other runs of the same pipeline and workflow, for a comparison to choose from."""

    def earlier(self, report: RunReport) -> Sequence[RunReport]:
        """The runs before this one, for an explanation to choose from."""

    def follow(self, newest: int, told: Callable[[RunReport], None]) -> Callable[[], None]:
        """Tells the `newest` runs of other processes and those in progress, then each that changes.

        In a thread of its own, until the function that it returns is called, which returns at once.
        """


class Runs:
    """This process's runs, which are newer than what was kept of them, and then the others."""

    def __init__(self, history: History, kept: KeptRuns | None) -> None:
        self._history = history
        self._kept = kept
        self._followed: dict[str, RunReport] = {}

    def page(self, limit: int, before: str | None = None) -> tuple[tuple[RunReport, ...], Sequence[str]]:
        """The newest `limit` runs, or those that began before run `before`, newest first.

        And the ids of those that were kept there and cannot be read.
        """
        own = self._history.reports()
        oldest = self.report(before) if before is not None else None
        if oldest is not None:
            own = tuple(run for run in own if _age(run) < _age(oldest))
        kept, unreadable = self._kept.page(limit, before) if self._kept is not None else ((), ())
        known = {run.run_id: run for run in (*kept, *own)}
        return tuple(sorted(known.values(), key=_age, reverse=True)[:limit]), unreadable

    def search(self, chosen: RunFilter, limit: int, before: str | None = None) -> Found:
        """The newest `limit` of the `chosen` runs, or those that began before run `before`, newest first.

        Where it took long it says how far it came: what is older is yet to be looked at.
        """
        own = [run for run in self._history.reports() if chosen.matches(run)]
        oldest = self.report(before) if before is not None else None
        if oldest is not None:
            own = [run for run in own if _age(run) < _age(oldest)]
        kept = Found((), (), None) if self._kept is None else self._kept.search(chosen, limit, before)
        if (to := kept.searched_to) is not None:
            own = [run for run in own if _age(run) >= (to.started_unix_seconds, to.run_id)]
        known = {run.run_id: run for run in (*kept.reports, *own)}
        found = sorted(known.values(), key=_age, reverse=True)[:limit]
        return Found(found, kept.unreadable, to)

    def attachment(self, run_id: str, kind: str) -> Kept | None:
        """What is kept of that kind with a run, if anything."""
        return None if self._kept is None else self._kept.attachment(run_id, kind)

    def was_made_here(self, report: RunReport) -> bool:
        """Whether the files that the report names are this machine's."""
        if self._history.report(report.run_id) is not None:
            return True
        return self._kept is not None and self._kept.was_made_here(report)

    def report(self, run_id: str) -> RunReport | None:
        """One run; None where nobody knows it."""
        own = self._history.report(run_id)
        return own if own is not None or self._kept is None else self._kept.report(run_id)

    def newest(self, limit: int) -> tuple[RunReport, ...]:
        """The newest runs, newest first, with an older one in progress in place of one that has ended.

        Known without asking anybody: of other processes' runs those of which `follow` has heard.
        """
        return _newest([*tuple(self._followed.values()), *self._history.reports()], limit)

    def follow(self, newest: int, told: Callable[[RunReport], None]) -> Callable[[], None]:
        """`KeptRuns.follow`; nothing where there is no history."""
        if self._kept is None:
            return lambda: None
        followed = self._followed = {}

        def note(report: RunReport) -> None:
            followed[report.run_id] = report
            kept = {run.run_id for run in _newest(followed.values(), newest)}
            for run_id in followed.keys() - kept:
                del followed[run_id]
            told(report)

        return self._kept.follow(newest, note)

    def compare(self, a: RunReport, b: RunReport) -> Comparison:
        """B compared with A, judged by the runs that are like A."""
        return compare(a, b, self._others(a))

    def explain(self, run: RunReport) -> Explanation:
        """How the run compares with those before it that are like it, and why."""
        kept = self._kept.earlier(run) if self._kept is not None else ()
        return explain(run, [*kept, *self._history.reports()])

    def alike(self, run: RunReport) -> tuple[RunReport, ...]:
        """The newest runs that are like one that goes on, for its time to go."""
        return newest_alike(run, self._others(run))

    def _others(self, run: RunReport) -> list[RunReport]:
        return [*self._history.reports(), *(self._kept.alike(run) if self._kept else ())]


class AlikeRuns:
    """What the runs that go on are like: looked up once each, in a thread of its own. For use from any."""

    def __init__(self, find: Callable[[RunReport], Sequence[RunReport]]) -> None:
        self._find = find
        self._found: dict[str, Sequence[RunReport] | None] = {}
        self._lookups = ThreadPoolExecutor(max_workers=1, thread_name_prefix="crystools-tpu-alike")
        self._guard = Guard(logger)

    def of(self, run: RunReport) -> Sequence[RunReport] | None:
        """The runs that are like this one; None while they are looked up."""
        if run.run_id not in self._found:
            if len(self._found) == _MOST_LOOKED_UP:
                self._found.pop(next(iter(self._found)), None)
            self._found[run.run_id] = None
            with self._guard("the runs that are like one cannot be looked up"):
                self._lookups.submit(self._look_up, run)
        return self._found.get(run.run_id)

    def close(self) -> None:
        """Looks up nothing more."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    def _look_up(self, run: RunReport) -> None:
        found: Sequence[RunReport] = ()
        with self._guard("the runs that are like one cannot be looked up"):
            found = self._find(run)
        self._found[run.run_id] = found


def _newest(runs: Iterable[RunReport], limit: int) -> tuple[RunReport, ...]:
    """The last of several reports of a run counts."""
    known = {run.run_id: run for run in runs}.values()
    chosen = sorted(known, key=lambda run: (run.status is Status.RUNNING, _age(run)), reverse=True)[:limit]
    return tuple(sorted(chosen, key=_age, reverse=True))


def _age(run: RunReport) -> tuple[float, str]:
    return run.started_unix_seconds, run.run_id
