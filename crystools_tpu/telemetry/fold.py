"""How a running stage stands, folded from its events: once, for the page and every other client of a server.

It is done where events are passed on, not where they happen, and only while somebody listens.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

from crystools_tpu.telemetry.compiles import recompile_reason, worst_cache
from crystools_tpu.telemetry.events import (
    CACHED,
    BytesTransferred,
    CompileFinished,
    CompileRecord,
    Event,
    RunChanged,
    RunFinished,
    RunReport,
    StageFinished,
    StageProgress,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
)
from crystools_tpu.telemetry.stage_tree import number_of_running_stage
from crystools_tpu.telemetry.step_times import (
    eta_seconds,
    is_timed,
    seconds_by_kind,
    statistics_of_full,
    statistics_of_kinds,
)
from crystools_tpu.telemetry.time_to_go import (
    AlikeOf,
    RunsAhead,
    nothing_alike,
    time_to_go,
    with_time_to_go,
)

_Happened: TypeAlias = StepFinished | BytesTransferred | CompileFinished

_OF_REPORT = {f.name for f in dataclasses.fields(StageReport)} & {
    f.name for f in dataclasses.fields(StageProgress)
}


def with_progress(run: RunReport, now_unix_seconds: float, alike_of: AlikeOf = nothing_alike) -> RunReport:
    """The report of a run, with how its running stage stands if there is one.

    `alike_of` gives the runs that are like it, for its time to go.
    """
    number = number_of_running_stage(run)
    if number is None:
        return run
    progress = _progress(run.stages[number], now_unix_seconds)
    left = time_to_go(run, number, progress, now_unix_seconds, alike_of(run) or ())
    return dataclasses.replace(run, progress=with_time_to_go(progress, left))


class Fold:
    """Follows runs by their events, handed to `add` in their order.

    `report_of` gives a run as known so far: of one that began before, or of which events were lost.
    `unix_seconds` is the time of day. `alike_of` gives the runs that are like one, for its time to go.
    """

    def __init__(
        self,
        report_of: Callable[[str], RunReport | None],
        unix_seconds: Callable[[], float],
        alike_of: AlikeOf = nothing_alike,
    ) -> None:
        self._report_of = report_of
        self._unix_seconds = unix_seconds
        self._stages: defaultdict[str, dict[int, _Stage]] = defaultdict(dict)
        self._ahead = RunsAhead(report_of, alike_of)

    def add(self, event: Event) -> Event:
        """The event, with how its stage stands after it where that runs and is known."""
        return self._ahead.add(self._add(event), self._unix_seconds())

    def _add(self, event: Event) -> Event:
        if isinstance(event, StageStarted):
            return dataclasses.replace(event, progress=self._begun(event).progress)
        if isinstance(event, RunChanged):
            return RunChanged(with_progress(event.report, self._unix_seconds()))
        if isinstance(event, RunFinished):
            self._stages.pop(event.report.run_id, None)
        elif isinstance(event, StageFinished):
            self._stages[event.run_id].pop(event.stage, None)
        elif isinstance(event, StepFinished | BytesTransferred | CompileFinished):
            known = self._stage_of(event)
            if known is not None:
                return dataclasses.replace(event, progress=known.after(event, self._unix_seconds()))
        return event

    def _stage_of(self, event: _Happened) -> _Stage | None:
        stage = self._stages[event.run_id].get(event.stage)
        if stage is not None and not stage.misses(event):
            return stage
        run = self._report_of(event.run_id)
        if run is None or event.stage >= len(run.stages):
            return None
        if run.stages[event.stage].status is not Status.RUNNING:  # its end is among the events to come
            return None
        return self._begun(StageStarted(event.run_id, event.stage, run.stages[event.stage]))

    def _begun(self, event: StageStarted) -> _Stage:
        stage = _Stage(event.report, self._unix_seconds())
        self._stages[event.run_id][event.stage] = stage
        return stage


class _Stage:
    """One stage as it stands, from its report at some time and its events from then on.

    What the report knows already does not count again.
    """

    def __init__(self, report: StageReport, now: float) -> None:
        self.progress = _progress(report, now)
        self._told_at = now
        self._steps = len(report.steps)
        self._timed = seconds_by_kind(report.steps)
        self._compiles = set(report.compiles)
        self._recompiled: list[CompileRecord] = []

    def misses(self, event: _Happened) -> bool:
        """Whether a step before the event's was lost."""
        return isinstance(event, StepFinished) and event.step > self._steps

    def after(self, event: _Happened, now: float) -> StageProgress:
        """How the stage stands after the event."""
        if isinstance(event, StepFinished):
            changes = self._step(event)
        elif isinstance(event, BytesTransferred):
            changes = {
                "eta_seconds": event.eta_seconds,
                "bytes_done": event.bytes_done,
                "bytes_per_second": event.bytes_per_second,
            }
        else:
            changes = self._compile(event)
        eta = self.progress.eta_seconds
        if eta is not None and not self.progress.eta_by_forecast:
            changes.setdefault("eta_seconds", max(0.0, eta - max(0.0, now - self._told_at)))
        self.progress = dataclasses.replace(self.progress, **changes)
        self._told_at = now
        return self.progress

    def _step(self, event: StepFinished) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if event.record.kind != CACHED:  # what that made of the chips says nothing of the other steps
            figures = {"mfu": event.mfu, "mbu": event.mbu, "bound": event.bound}
            changes = {name: figure for name, figure in figures.items() if figure is not None}
        if event.step + 1 >= self._steps:
            changes |= {"eta_seconds": event.eta_seconds, "eta_by_forecast": False}
        if event.step < self._steps:
            return changes
        self._steps += 1
        if is_timed(event.record):
            bisect.insort(self._timed.setdefault(event.record.kind, []), event.record.seconds)
            changes["step_seconds"] = statistics_of_full(self._timed)
            changes["step_seconds_by_kind"] = statistics_of_kinds(self._timed)
        if event.record.finite is False and self.progress.first_nonfinite_step is None:
            changes["first_nonfinite_step"] = event.step
        return changes

    def _compile(self, event: CompileFinished) -> dict[str, Any]:
        if event.record in self._compiles:
            return {}
        self._compiles.add(event.record)
        progress, reasons = self.progress, self.progress.recompile_reasons
        if event.recompile:
            self._recompiled = [event.record]
            reasons = (*reasons, recompile_reason(self._recompiled))
        elif self._recompiled:  # one more of the same step
            self._recompiled.append(event.record)
            reasons = (*reasons[:-1], recompile_reason(self._recompiled))
        return {
            "compile_seconds": event.stage_compile_seconds,
            "compile_cache": worst_cache({event.record.cache, progress.compile_cache}),
            "recompiles": progress.recompiles + event.recompile,
            "recompile_reasons": reasons,
        }


def _progress(stage: StageReport, now_unix_seconds: float) -> StageProgress:
    eta = eta_seconds(stage)
    if eta is not None and stage.steps:
        last_step_at = sum((step.seconds for step in stage.steps), stage.started_unix_seconds)
        eta = max(0.0, eta - max(0.0, now_unix_seconds - last_step_at))
    return StageProgress(
        eta_seconds=eta,
        eta_by_forecast=eta is not None and not stage.steps,
        bytes_per_second=None,
        **{name: getattr(stage, name) for name in _OF_REPORT},
    )
