"""The runs that the server knows: those of its own process, and those that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from crystools_tpu.telemetry import Comparison, History, RunReport, compare


class KeptRuns(Protocol):
    """A history that outlives the process. It may block; what it cannot read it leaves out."""

    def page(self, limit: int, before: str | None = None) -> tuple[Sequence[RunReport], Sequence[str]]:
        """The newest runs, or those before run `before`, newest first; and the ids of what was left out."""

    def report(self, run_id: str) -> RunReport | None:
        """One run, if it is there."""

    def alike(self, report: RunReport) -> Sequence[RunReport]:
        """Other runs of the same pipeline, for a comparison to choose from."""


class Runs:
    """This process's runs, which are newer than what was kept of them, and then the others."""

    def __init__(self, history: History, kept: KeptRuns | None) -> None:
        self._history = history
        self._kept = kept

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

    def report(self, run_id: str) -> RunReport | None:
        """One run; None where nobody knows it."""
        own = self._history.report(run_id)
        return own if own is not None or self._kept is None else self._kept.report(run_id)

    def compare(self, a: RunReport, b: RunReport) -> Comparison:
        """B compared with A, judged by the runs that are like A."""
        return compare(a, b, [*self._history.reports(), *(self._kept.alike(a) if self._kept else ())])


def _age(run: RunReport) -> tuple[float, str]:
    return run.started_unix_seconds, run.run_id
