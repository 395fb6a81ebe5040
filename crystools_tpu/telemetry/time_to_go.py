"""How long a whole run still takes: what is left of its running stage, and all the stages to come.

By what that is known best: by alike runs; by the plan, where the run says which stages it is to have; or by
those and the rate of the run's own steps. What nobody knows is None.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from crystools_tpu.telemetry.events import (
    BytesTransferred,
    CompileCache,
    CompileFinished,
    EtaBy,
    Event,
    RunChanged,
    RunFinished,
    RunReport,
    RunStarted,
    StageFinished,
    StageName,
    StageProgress,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
)
from crystools_tpu.telemetry.expectation import Compiles, Part, Skipped, expectation
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.stage_keys import StageKeys
from crystools_tpu.telemetry.stage_tree import number_of_running_stage, parent_of
from crystools_tpu.telemetry.step_times import mean_planned_seconds

logger = logging.getLogger(__name__)

AlikeOf: TypeAlias = Callable[[RunReport], Sequence[RunReport] | None]
"""The runs that are like a running one (see `newest_alike`); None: not known yet, ask again."""

_TellsHowAStageStands: TypeAlias = StageStarted | StepFinished | BytesTransferred | CompileFinished

_MOST_RUNS: Final = 64


def nothing_alike(run: RunReport) -> Sequence[RunReport]:
    """Where there is no history."""
    return ()


class TimeToGo(NamedTuple):
    """Seconds, and by what they are known."""

    seconds: float
    by: EtaBy


class RunAhead:
    """One run, told of its stages as they begin and end: what it has still before it.

    An update costs as much as there are stages to come.
    """

    def __init__(self, run: RunReport, alike: Sequence[RunReport]) -> None:
        self._expected = expectation(run, alike)
        self._to_come = {} if self._expected is None else dict(self._expected.parts)
        self._parents = {part.parent for part in self._to_come.values()}
        self._keys = StageKeys()
        self._stages: list[StageReport] = []
        self._ended: set[int] = set()
        self._rate: float | None = None
        self._denoiser_compiled = 0.0
        self._found_one = False
        self._compiled, self._compiled_before = 0.0, Compiles(0.0, 0.0)
        for number, stage in enumerate(run.stages):
            self.began(stage)
            if stage.status is not Status.RUNNING:
                self.ended(number, stage)

    @property
    def stages(self) -> int:
        """How many have begun."""
        return len(self._stages)

    def began(self, stage: StageReport) -> None:
        """The next stage began."""
        self._stages.append(stage)
        self._to_come.pop(self._keys.add(stage), None)

    def ended(self, number: int, stage: StageReport) -> None:
        """A stage ended: how its compiles and its steps were says something of those to come."""
        part = self._part(number)
        if number in self._ended or part is None:
            return
        self._ended.add(number)
        self._saw_compile(stage, stage.compile_seconds)
        if part.compiles is not None and self._keys.keys[number] not in self._parents:
            before = self._compiled_before
            self._compiled += stage.compile_seconds
            self._compiled_before = Compiles(
                before.found + part.compiles.found, before.missing + part.compiles.missing
            )
        self._rate = _rate(stage, part, stage) or self._rate

    def left(
        self, number: int, progress: StageProgress, done: int, now_unix_seconds: float
    ) -> TimeToGo | None:
        """What the run has still to go while stage `number` stands so, `done` being its steps so far."""
        if self._expected is None or number >= len(self._stages):
            return None
        self._saw_compile(self._stages[number], progress.compile_seconds)
        steps = progress.step_seconds
        part = self._part(number)
        rate = _rate(self._stages[number], part, progress) or self._rate
        of_stage = self._left_of(number, progress, done, rate, now_unix_seconds)
        if of_stage is None:
            return None
        seconds, number = of_stage
        above = {None, *(self._keys.keys[each] for each in self._above(number))}
        to_come = [each for each in self._to_come.values() if each.parent in above]
        known = [self._whole(each, rate) for each in to_come]
        if None in known:
            return None
        seconds += self._expected.share * sum(each for each in known if each is not None)
        of_plan = [*to_come, *([part] if part is not None and steps is None else [])]
        return TimeToGo(seconds, self._by(of_plan))

    def _saw_compile(self, stage: StageReport, seconds: float) -> None:
        self._found_one = self._found_one or stage.compile_cache is CompileCache.HIT
        if stage.name is StageName.DENOISE:
            self._denoiser_compiled = max(self._denoiser_compiled, seconds)

    def _left_of(
        self, number: int, progress: StageProgress, done: int, rate: float | None, now: float
    ) -> tuple[float, int] | None:
        """What a stage has still to go. Where that is not known, the nearest stage above, of which it is."""
        assert self._expected is not None
        part = self._part(number)
        if part is not None and part.skipped and done > 0 and progress.step_seconds_by_kind is None:
            return _left_before_skips(part.skipped, progress, done), number
        if progress.eta_seconds is not None and (
            not progress.eta_by_forecast or not self._expected.by_history
        ):
            return progress.eta_seconds, number
        for each in (number, *self._above(number)):
            part, stage = self._part(each), self._stages[each]
            if part is not None and (seconds := _seconds(part, rate)) is not None:
                compiles, least = self._compile(part, progress if each == number else None), 0.0
                if each == number and stage.steps_total:
                    least = seconds * max(0.0, stage.steps_total - done - 0.5) / stage.steps_total
                passed = max(0.0, now - stage.started_unix_seconds)
                return max(least, seconds + compiles - passed), each
            if part is None and not self._expected.by_history:
                return 0.0, each  # it loads or saves: that is in no plan
        return None

    def _whole(self, part: Part, rate: float | None) -> float | None:
        """All that a stage is to take, with its compile."""
        seconds = _seconds(part, rate)
        return None if seconds is None else seconds + self._compile(part)

    def _compile(self, part: Part, progress: StageProgress | None = None) -> float:
        """By what this run has compiled where alike ones did; without these by that of its own denoiser.

        `progress` is that of the stage itself: whether the cache has its programs is known then.
        """
        cache = None if progress is None else progress.compile_cache
        if progress is not None and cache is CompileCache.HIT:
            return max(progress.compile_seconds, part.compiles.found if part.compiles else 0.0)
        if part.compiles is None:
            unknown = part.found if self._found_one else part.compiling
            return self._denoiser_compiled * (unknown if cache is None else part.missing)
        if cache is not None:
            return part.compiles.missing
        return part.compiles.as_in(self._compiled, self._compiled_before)

    def _by(self, parts: Sequence[Part]) -> EtaBy:
        if self._expected is not None and self._expected.by_history:
            return "history"
        return "plan" if any(part.seconds is not None for part in parts) else "steps"

    def _part(self, number: int) -> Part | None:
        if self._expected is None or number >= len(self._stages):
            return None
        return self._expected.parts.get(self._keys.keys[number])

    def _above(self, number: int) -> Iterator[int]:
        """The stages that a stage is a part of, the nearest first."""
        parent = parent_of(self._stages, number)
        while parent is not None:
            yield parent
            parent = parent_of(self._stages, parent)


def _seconds(part: Part, rate: float | None) -> float | None:
    if part.seconds is not None:
        return part.seconds
    return None if part.work is None or rate is None else part.work / rate


def _left_before_skips(usual: Skipped, progress: StageProgress, done: int) -> float:
    """What is left of a stage with so many steps that has skipped none yet, where another run did skip."""
    full = progress.step_seconds.median if progress.step_seconds else usual.full_seconds
    to_come = max(0, usual.full + usual.cached - done)
    to_come_full = min(to_come, max(0, usual.full - done))
    return to_come_full * full + (to_come - to_come_full) * usual.cached_seconds


def _rate(stage: StageReport, part: Part | None, timed: StageReport | StageProgress) -> float | None:
    """The FLOPs a second of a denoiser, by its steps so far, of which `timed` has the times."""
    if stage.name is not StageName.DENOISE or part is None or part.work is None:
        return None
    seconds = mean_planned_seconds(stage, timed)
    return part.work / part.steps / seconds if seconds else None


def time_to_go(
    run: RunReport, number: int, progress: StageProgress, now_unix_seconds: float, alike: Sequence[RunReport]
) -> TimeToGo | None:
    """What the run has still to go while its stage `number` stands so; `alike` are runs like it."""
    return RunAhead(run, alike).left(number, progress, len(run.stages[number].steps), now_unix_seconds)


def with_time_to_go(progress: StageProgress, left: TimeToGo | None) -> StageProgress:
    """The progress, with what the run has still to go where that is known."""
    if left is None:
        return progress
    return dataclasses.replace(progress, run_eta_seconds=left.seconds, run_eta_by=left.by)


class RunsAhead:
    """All runs of which one hears events, in their order; see `fold.Fold`."""

    def __init__(self, report_of: Callable[[str], RunReport | None], alike_of: AlikeOf) -> None:
        self._report_of = report_of
        self._alike_of = alike_of
        self._runs: dict[str, RunAhead] = {}
        self._waiting: set[str] = set()
        self._guard = Guard(logger)

    def add(self, event: Event, now_unix_seconds: float) -> Event:
        """The event, with what its run has still to go where it tells how a stage stands."""
        with self._guard("what a run has still to go is not known"):
            return self._add(event, now_unix_seconds)
        return event

    def _add(self, event: Event, now: float) -> Event:
        if isinstance(event, RunStarted):
            self._follow(event.report)
        elif isinstance(event, RunChanged):
            return RunChanged(self._anew(event.report, now))
        elif isinstance(event, RunFinished):
            self._forget(event.report.run_id)
        elif isinstance(event, StageFinished):
            if (ahead := self._runs.get(event.run_id)) is not None:
                if event.stage == ahead.stages:  # a node that was too quick to be told of before
                    ahead.began(event.report)
                ahead.ended(event.stage, event.report)
        elif isinstance(event, _TellsHowAStageStands) and event.progress is not None:
            ahead = self._ahead(event)
            done = event.step + 1 if isinstance(event, StepFinished) else 0
            left = None if ahead is None else ahead.left(event.stage, event.progress, done, now)
            return dataclasses.replace(event, progress=with_time_to_go(event.progress, left))
        return event

    def _anew(self, run: RunReport, now: float) -> RunReport:
        if run.status is not Status.RUNNING:  # more is known of one that has ended
            return run
        ahead, number = self._follow(run), number_of_running_stage(run)
        if number is None or run.progress is None:
            return run
        left = ahead.left(number, run.progress, len(run.stages[number].steps), now)
        return dataclasses.replace(run, progress=with_time_to_go(run.progress, left))

    def _ahead(self, event: _TellsHowAStageStands) -> RunAhead | None:
        ahead = self._runs.get(event.run_id)
        if ahead is not None and isinstance(event, StageStarted) and event.stage == ahead.stages:
            ahead.began(event.report)
        if ahead is None or event.run_id in self._waiting or event.stage >= ahead.stages:
            run = self._report_of(event.run_id)
            ahead = ahead if run is None else self._follow(run)
        return ahead

    def _follow(self, run: RunReport) -> RunAhead:
        self._forget(run.run_id)
        if len(self._runs) == _MOST_RUNS:
            self._forget(next(iter(self._runs)))
        alike = self._alike_of(run)
        if alike is None:
            self._waiting.add(run.run_id)
        ahead = self._runs[run.run_id] = RunAhead(run, alike or ())
        return ahead

    def _forget(self, run_id: str) -> None:
        self._runs.pop(run_id, None)
        self._waiting.discard(run_id)
