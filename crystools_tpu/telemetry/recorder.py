"""Records a run as it happens: `with run(...) as run: with run.stage(...) as stage: stage.step(done)`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import operator
import os
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Protocol, Unpack

from crystools_tpu.telemetry.clock import elapsed, iso_time, steady, time_of_day
from crystools_tpu.telemetry.device import describe_devices
from crystools_tpu.telemetry.events import (
    FULL,
    Attachment,
    Device,
    Event,
    Forecast,
    Node,
    Params,
    RunAttached,
    RunChanged,
    RunFinished,
    RunReport,
    RunStarted,
    RunWarned,
    StageName,
    StageReport,
    StageWork,
    Status,
)
from crystools_tpu.telemetry.forecast import forecast_warning
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.keeping import keeper
from crystools_tpu.telemetry.process import own_process
from crystools_tpu.telemetry.profile import Profiler
from crystools_tpu.telemetry.protocol import RunFacts
from crystools_tpu.telemetry.pubsub import Bus
from crystools_tpu.telemetry.stage import Stage, Surroundings, figure, status_of
from crystools_tpu.telemetry.text import describe_error, safe_text

logger = logging.getLogger(__name__)


class TelemetryError(Exception):
    """A run or stage was reported in a way that has no meaning, such as a stage within a stage."""


class History:
    """The last runs of this process, running ones included. Thread-safe."""

    def __init__(self, maxlen: int = 100) -> None:
        self._runs: deque[Run] = deque(maxlen=maxlen)

    def add(self, run: Run) -> None:
        """Keeps the run; the oldest leaves when there are more than `maxlen`."""
        self._runs.append(run)

    def begin_anew(self) -> tuple[str, ...]:
        """In a process that was forked: forgets the parent's runs; their ids."""
        run_ids = tuple(run.run_id for run in self._runs)
        self._runs.clear()
        return run_ids

    def running(self) -> tuple[Run, ...]:
        """The runs that have not ended."""
        return tuple(run for run in tuple(self._runs) if run.report.status is Status.RUNNING)

    def reports(self) -> tuple[RunReport, ...]:
        """The reports, newest first."""
        return tuple(run.report for run in reversed(tuple(self._runs)))

    def report(self, run_id: str) -> RunReport | None:
        """The report of one run; None where it is not (or no longer) known."""
        return next((report for report in self.reports() if report.run_id == run_id), None)

    def is_kept_with(self, run_id: str, kind: str) -> None:
        """Says that an attachment of this kind is in the history that outlives the process."""
        for run in tuple(self._runs):
            if run.run_id == run_id:
                run.is_kept_with(kind)


_PIPELINE_STAGES: Final = tuple(name for name in StageName if name is not StageName.NODE)


class _Recorded(Protocol):
    """A stage of a run, whatever records it."""

    @property
    def report(self) -> StageReport:
        """The stage as known so far."""


class Run:
    """The `RunRecorder` that records. Made by `run(...)`."""

    def __init__(
        self,
        pipeline: str,
        *,
        bus: Bus,
        profiler: Profiler,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        **facts: Unpack[RunFacts],
    ) -> None:
        self._guard = Guard(logger)
        self._telling = self._guard("what happens in the run could not be told")
        self._bus = bus
        self._clock = steady(clock, self._guard)
        self._wall_clock = wall_clock
        self.devices = tuple(facts.get("devices", ()))
        self.output: str | None = None
        device = _described(self.devices, facts.get("peak_flops_per_chip"), self._guard)
        forecast = facts.get("forecast")
        self._expected = list(forecast.stages) if forecast else []
        self._stages: list[_Recorded] = []
        self._stage_is_open = False
        self._warnings: list[str] = []
        self._attachments: tuple[str, ...] = ()
        self._final: RunReport | None = None
        self._started_at = self._clock()
        self._start = dataclasses.replace(
            run_begun(pipeline, time_of_day(wall_clock, self._guard), self._guard, facts),
            device=device,
            forecast=forecast,
            content_params=self._guard.known("content_params", facts.get("content_params"), _names),
            work=tuple(facts.get("work", ())),
        )
        self._around = Surroundings(
            run_id=self._start.run_id,
            pipeline=self._start.pipeline,
            devices=self.devices,
            device=device,
            profiler=profiler,
            publish=self._publish,
            clock=self._clock,
            unix_seconds=self.unix_seconds,
            guard=self._guard,
        )

    @property
    def run_id(self) -> str:
        """What tells this run from every other."""
        return self._start.run_id

    def begin(self, history: History) -> None:
        """Remembers the run and tells of it."""
        keeper.run_begins(self.run_id)
        with self._guard("the run could not be remembered"):
            history.add(self)
        self._publish(RunStarted(self.report))
        self._say_what_will_not_fit()

    def _say_what_will_not_fit(self) -> None:
        with self._guard("the forecast could not be read"):
            forecast = self._start.forecast
            if forecast is not None and (warning := forecast_warning(forecast)):
                logger.warning("%s: %s", self._start.pipeline, warning)

    def unix_seconds(self) -> float:
        """The time of day by the run's own clock, which never jumps; where that is unknown, by the other."""
        seconds = elapsed(self._started_at, self._clock())
        if seconds is None:
            return time_of_day(self._wall_clock, self._guard)
        return self._start.started_unix_seconds + seconds

    def _publish(self, event: Event) -> None:
        """Tells whoever listens."""
        with self._telling:
            self._bus.publish(event)

    @property
    def report(self) -> RunReport:
        """The run as known so far; final once it has ended, but for what is attached to it."""
        report = self._final or self._summary(Status.RUNNING, None, None)
        kinds = self._attachments
        return dataclasses.replace(report, attachments=kinds) if kinds else report

    @contextlib.contextmanager
    def stage(
        self,
        name: StageName | str,
        *,
        component: str | None = None,
        steps: int | Mapping[str, int] | None = None,
        flops_per_step: float | None = None,
        flops_method: str | None = None,
        bytes_per_step: float | None = None,
        bytes_total: int | None = None,
    ) -> Iterator[Stage]:
        """A stage; its end waits for its steps, so `seconds` is what the device needed.

        Whatever fails in the watching is a warning, and what it would have said is absent. What may be
        said of a stage, `StageFacts` says, and what this raises, `RunRecorder.stage`.
        """
        report = stage_begun(name, component, self.unix_seconds(), another_is_open=self._stage_is_open)
        planned = _steps(steps, self._guard)
        report = dataclasses.replace(
            report,
            steps_total=None if planned is None else sum(planned.values()),
            steps_by_kind=planned if planned is not None and planned.keys() != {FULL} else None,
            bytes_total=self._guard.known("bytes_total", bytes_total, _count),
            flops_method=flops_method if flops_per_step is not None else None,
        )
        with self._guard("a stage's forecast could not be read"):
            report = self._with_forecast(report)
        stage = self._placed(report, flops_per_step, bytes_per_step)
        self._stage_is_open = True
        try:
            with stage.running():
                yield stage
        finally:
            self._stage_is_open = False

    def _placed(self, report: StageReport, flops: float | None, moved_bytes: float | None) -> Stage:
        """The stage at its position in the run."""
        stage = Stage(self._around, len(self._stages), report, flops, moved_bytes)
        self._stages.append(stage)
        return stage

    def warn(self, warning: str) -> None:
        """Says what the user should know in the log, on every screen and in the report, the same once."""
        warning = safe_text(warning)
        if warning not in self._warnings:
            self._warnings.append(warning)
            logger.warning("%s: %s", self._start.pipeline, warning)
            self._publish(RunWarned(self.run_id, self._start.pipeline, warning))

    def attach(self, attachment: Attachment) -> None:
        """Has it kept with the run in the history; also after the run has ended."""
        self._publish(RunAttached(self.run_id, attachment))

    def is_kept_with(self, kind: str) -> None:
        """An attachment of this kind is in the history, and can be asked for there: tells of it."""
        if kind not in self._attachments:
            self._attachments = (*self._attachments, kind)
            self._publish(RunChanged(self.report))

    def _with_forecast(self, report: StageReport) -> StageReport:
        """The stage with the first forecast of its name and component that no stage before it has taken."""
        named = (report.name, report.component)
        expected = next((each for each in self._expected if (each.name, each.component) == named), None)
        if expected is None:
            return report
        self._expected.remove(expected)
        peak, device = expected.hbm_peak_bytes_per_chip, self._start.device
        if peak is not None and device is not None:
            peak = int(peak * device.chips / device.count)
        return dataclasses.replace(
            report, predicted_step_seconds=expected.step_seconds, predicted_hbm_peak_bytes=peak
        )

    def finish(self, error: BaseException | None) -> None:
        """Ends the run, and a stage that Ctrl-C left unfinished, and publishes the report. Once is all."""
        if self._final is not None:
            return
        for stage in self._stages:
            if isinstance(stage, Stage):
                stage.finish(error)
        self._around.profile(self._around.profiler.run_ended)
        seconds = elapsed(self._started_at, self._clock())
        self._final = self._summary(status_of(error), describe_error(error), seconds)
        self._tell_end(self.report)

    def _tell_end(self, report: RunReport) -> None:
        self._publish(RunFinished(report))
        keeper.run_ended(self.run_id)

    def _summary(self, status: Status, error: str | None, seconds: float | None) -> RunReport:
        return dataclasses.replace(
            self._start,
            status=status,
            error=error,
            total_seconds=seconds,
            output=self.output,
            stages=tuple(stage.report for stage in tuple(self._stages)),
            warnings=tuple(self._warnings),
        )


class Executing(Protocol):
    """What executes nodes, of which a run that begins meanwhile is a part: a workflow."""

    def part(self, node_id: str, pipeline: str, **facts: Unpack[RunFacts]) -> Run | None:
        """The recorder of that part of the node; None where that has ended."""


executing: ContextVar[tuple[Executing, str] | None] = ContextVar("crystools_tpu_executing", default=None)
"""What executes a node just now, and the node's id."""

bus = Bus()
history = History()
profiler = Profiler(bus)


def keep_by_default(on_bus: Bus, in_history: History) -> None:
    """Before a run begins: runs are kept, but for those on a bus or in a history of their own."""
    if on_bus is bus and in_history is history:
        keeper.start()


def _begin_anew() -> None:
    """A process that was forked has neither the threads nor the runs of its parent."""
    bus.begin_anew()
    keeper.begin_anew(history.begin_anew())


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_begin_anew)


@contextlib.contextmanager
def run(
    pipeline: str,
    *,
    model_id: str | None = None,
    params: Params | None = None,
    content_params: Collection[str] | None = None,
    devices: Sequence[Any] = (),
    peak_flops_per_chip: float | None = None,
    forecast: Forecast | None = None,
    work: Sequence[StageWork] = (),
    bus: Bus = bus,
    history: History = history,
    profiler: Profiler = profiler,
    clock: Callable[[], float] = time.perf_counter,
    wall_clock: Callable[[], float] = time.time,
) -> Iterator[Run]:
    """Records a run of `pipeline` on these jax devices; without devices there are no MFU and no HBM.

    It is kept in the user's history (see `keep_runs`), unless it is given a `bus` or `history` of its own.

    An exception ends the run as `failed` with its reason, Ctrl-C as `cancelled`; both go on to the caller.
    What fails in the watching itself is a warning, once a run, and never an exception here.
    `content_params` names those of `params` that say what is shown and change no time: a comparison of runs
    leaves them out, and no text of theirs goes into a trace. None: `events.DEFAULT_CONTENT_PARAMS`.
    `peak_flops_per_chip` is for a device that the chip table does not have. `forecast` is what is expected of
    the run: each stage takes what is said of its name and component, and the ETA begins with it. Where a
    stage is not to fit, that is a warning in the log and on every screen; the run goes on. `work` are the
    stages that are to compute something: with them the time to go of a first run is known.

    While a workflow's node executes, what begins is a part of the workflow's run: see `workflow`.
    """
    facts: RunFacts = {
        "model_id": model_id,
        "params": params,
        "content_params": content_params,
        "devices": devices,
        "peak_flops_per_chip": peak_flops_per_chip,
        "forecast": forecast,
        "work": work,
    }
    recorded = None
    if (at_node := executing.get()) is not None:
        workflow, node_id = at_node
        recorded = workflow.part(node_id, pipeline, **facts)
    if recorded is None:
        keep_by_default(bus, history)
        recorded = Run(pipeline, bus=bus, profiler=profiler, clock=clock, wall_clock=wall_clock, **facts)
    recorded.begin(history)
    try:
        yield recorded
    except BaseException as error:
        recorded.finish(error)
        raise
    recorded.finish(None)


def run_begun(pipeline: str, started_unix_seconds: float, guard: Guard, facts: RunFacts) -> RunReport:
    """The report of a run that begins: no more of `facts` than its model and parameters."""
    return RunReport(
        run_id=_new_run_id(guard),
        pipeline=pipeline,
        model_id=facts.get("model_id"),
        params=facts.get("params") or {},
        status=Status.RUNNING,
        error=None,
        started_at=iso_time(started_unix_seconds),
        started_unix_seconds=started_unix_seconds,
        total_seconds=None,
        output=None,
        device=None,
        stages=(),
        process=own_process(guard),
    )


def stage_begun(
    name: StageName | str, component: str | None, started_unix_seconds: float, *, another_is_open: bool
) -> StageReport:
    """The report of a stage that begins.

    Raises TelemetryError where another stage is open, ValueError for a name that is no stage.
    """
    if another_is_open:
        raise TelemetryError(f"stage {name!r} begins while another is open: end that one first")
    if name not in _PIPELINE_STAGES:
        raise ValueError(f"stage {name!r} is none of {', '.join(_PIPELINE_STAGES)}")
    return report_begun(StageName(name), component, started_unix_seconds)


def report_begun(
    name: StageName,
    component: str | None,
    started_unix_seconds: float,
    *,
    parent: int | None = None,
    node: Node | None = None,
) -> StageReport:
    """The report of a stage of which no more is known."""
    return StageReport(
        name=name,
        component=component,
        status=Status.RUNNING,
        error=None,
        started_unix_seconds=started_unix_seconds,
        seconds=None,
        compile_seconds=0.0,
        compile_cache=None,
        compiles=(),
        recompiles=0,
        recompile_reasons=(),
        steps_total=None,
        steps=(),
        step_seconds=None,
        first_nonfinite_step=None,
        flops=None,
        flops_method=None,
        mfu=None,
        mbu=None,
        bound=None,
        hbm=(),
        parent=parent,
        node=node,
    )


def _new_run_id(guard: Guard) -> str:
    """32 hexadecimal digits that no other run has."""
    with guard("the system has no random number for the run's id"):
        return uuid.uuid4().hex
    return f"{random.getrandbits(128):032x}"


def _described(devices: Sequence[Any], peak_flops_per_chip: Any, guard: Guard) -> Device | None:
    # A peak of 0 is none: MFU divides by it.
    peak = guard.known("peak_flops_per_chip", peak_flops_per_chip, figure) or None
    with guard("the devices could not be described"):
        return describe_devices(devices, peak)
    return None


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"{value!r} is one text; give a list of names")
    return tuple(map(safe_text, value))


def _steps(steps: Any, guard: Guard) -> dict[str, int] | None:
    """How many steps of each kind are to come; None where one number of them is not known."""
    by_kind = steps if isinstance(steps, Mapping) else {FULL: steps}
    counts = {safe_text(kind): guard.known("steps", count, _count) for kind, count in by_kind.items()}
    known = {kind: count for kind, count in counts.items() if count is not None}
    return known if known.keys() == counts.keys() else None


def _count(value: Any) -> int:
    count = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    if not 0 <= count < 2**63:
        raise ValueError(f"{value!r} is no such number")
    return count
