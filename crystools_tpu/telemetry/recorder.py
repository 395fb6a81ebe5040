"""Records a run as it happens: `with run(...) as run: with run.stage(...) as stage: stage.step(done)`."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import statistics
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from crystools_tpu.telemetry import compiles, roofline
from crystools_tpu.telemetry.device import describe_devices
from crystools_tpu.telemetry.events import (
    Bound,
    CompileFinished,
    Params,
    Ratio,
    RunFinished,
    RunReport,
    RunStarted,
    StageFinished,
    StageName,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
    StepRecord,
    StepSeconds,
)
from crystools_tpu.telemetry.hbm import HbmRecorder
from crystools_tpu.telemetry.pubsub import Bus
from crystools_tpu.telemetry.steps import DispatchedStep, StepWaiter

logger = logging.getLogger(__name__)

# After an error the device gets this long to finish the steps in flight, so that their times are kept.
_DRAIN_AFTER_ERROR_SECONDS = 5.0

# The ETA follows the last steps: it notices a change of speed, and costs the same at any length.
_ETA_STEPS = 16


class TelemetryError(Exception):
    """A run or stage was reported in a way that has no meaning, such as a stage within a stage."""


class History:
    """The last runs of this process, running ones included. Thread-safe."""

    def __init__(self, maxlen: int = 100) -> None:
        self._runs: deque[Run] = deque(maxlen=maxlen)

    def add(self, run: Run) -> None:
        """Keeps the run; the oldest leaves when there are more than `maxlen`."""
        self._runs.append(run)

    def reports(self) -> tuple[RunReport, ...]:
        """The reports, newest first."""
        return tuple(run.report for run in reversed(tuple(self._runs)))

    def report(self, run_id: str) -> RunReport | None:
        """The report of one run; None where it is not (or no longer) known."""
        return next((report for report in self.reports() if report.run_id == run_id), None)


class _FinishedStep(NamedTuple):
    """A step as it was, without its output: the history must hold no array."""

    record: StepRecord
    flops: float | None
    moved_bytes: float | None
    host_wait_seconds: float


class Stage:
    """A stage of a run, between `with run.stage(...)` and its end. Made by `Run.stage` only."""

    def __init__(self, run: Run, index: int, report: StageReport, flops_per_step: float | None,
                 bytes_per_step: float | None) -> None:  # fmt: skip
        self._run = run
        self._index = index
        self._start = report
        self._flops_per_step = flops_per_step
        self._bytes_per_step = bytes_per_step
        self._started_at = self._last_done_at = run.clock()
        self._finished: list[_FinishedStep] = []
        self._dispatched = 0
        self._compiles_seen = 0
        self._recompiles: dict[int, list[compiles.Compile]] = {}
        self._final: StageReport | None = None
        self._hbm = HbmRecorder(run.devices, run.clock)
        self._waiter = StepWaiter(self._step_done, run.clock)
        self.compile_log = compiles.CompileLog(self._compile_done, run.clock)

    def step(self, done: Any, *, flops: float | None = None, moved_bytes: float | None = None) -> None:
        """Reports a step that was just dispatched, timed when the device finishes `done`.

        `done` is a small array that the step itself computed (`isfinite(latents).all()`: a NaN is then
        reported at its step), or a `torch.cuda.Event`, or None for work that is already finished.
        `flops` and `moved_bytes` replace the stage's `flops_per_step` and `bytes_per_step` for this one.
        Returns at once unless the step before it is still running.
        """
        compiled = self.compile_log.count > self._compiles_seen
        self._compiles_seen = self.compile_log.count
        self._dispatched += 1
        self._waiter.add(
            DispatchedStep(
                output=done,
                dispatched_at=self._run.clock(),
                compiled=compiled,
                flops=self._flops_per_step if flops is None else flops,
                moved_bytes=self._bytes_per_step if moved_bytes is None else moved_bytes,
            )
        )

    @property
    def report(self) -> StageReport:
        """The stage as known so far; final once it has ended."""
        return self._final or self._summary(Status.RUNNING, None, None)

    def finish(self, error: BaseException | None) -> BaseException | None:
        """Ends the stage: waits for its steps, publishes its report, returns the error that ended it.

        Does nothing the second time, which comes where the first was interrupted by Ctrl-C.
        """
        if self._final is not None:
            return error
        device_error = self._waiter.finish(None if error is None else _DRAIN_AFTER_ERROR_SECONDS)
        error = error or device_error
        self._hbm.sample(now=True)
        seconds = self._run.clock() - self._started_at
        self._final = self._summary(status_of(error), error, seconds)
        self._run.bus.publish(StageFinished(self._run.run_id, self._run.pipeline, self._index, self._final))
        return error

    def _step_done(self, step: DispatchedStep, finished_at: float, finite: bool | None) -> None:
        if self._final is not None:  # it outlived the wait after an error: the report is out
            return
        host_wait_seconds = max(0.0, min(step.dispatched_at, finished_at) - self._last_done_at)
        record = StepRecord(finished_at - self._last_done_at, step.compiled, finite)
        self._last_done_at = finished_at
        finished = _FinishedStep(record, step.flops, step.moved_bytes, host_wait_seconds)
        self._finished.append(finished)
        self._hbm.sample()
        used, moved, bound = self._utilisation([finished])
        self._run.bus.publish(
            StepFinished(
                run_id=self._run.run_id,
                pipeline=self._run.pipeline,
                stage=self._index,
                stage_name=self._start.name,
                step=len(self._finished) - 1,
                record=record,
                steps_total=self._start.steps_total,
                eta_seconds=self._eta_seconds(),
                mfu=used,
                mbu=moved,
                bound=bound,
            )
        )

    def _compile_done(self, compiled: compiles.Compile) -> None:
        recompile = self._dispatched > 0 and self._dispatched not in self._recompiles
        if self._dispatched > 0:
            self._recompiles.setdefault(self._dispatched, []).append(compiled)
        self._run.bus.publish(
            CompileFinished(
                run_id=self._run.run_id,
                pipeline=self._run.pipeline,
                stage=self._index,
                stage_name=self._start.name,
                function=compiled.function,
                seconds=compiled.seconds,
                cache=compiled.cache,
                stage_compile_seconds=self.compile_log.seconds,
                recompile=recompile,
                reason=compiled.reason,
            )
        )

    def _eta_seconds(self) -> float | None:
        recent = step_statistics([step.record for step in self._finished[-_ETA_STEPS:]])
        if recent is None or self._start.steps_total is None:
            return None
        return recent.median * max(0, self._start.steps_total - len(self._finished))

    def _utilisation(self, steps: Sequence[_FinishedStep]) -> tuple[Ratio | None, Ratio | None, Bound | None]:
        """MFU, MBU and what bounds these steps; those in which a compile fell are left out."""
        steps = [step for step in steps if not step.record.compiled]
        seconds = sum(step.record.seconds for step in steps)
        if seconds <= 0:
            return None, None, None
        device, method = self._run.device, self._start.flops_method or ""
        used = roofline.mfu(_sum_known([step.flops for step in steps]), seconds, device, method)
        moved = roofline.mbu(_sum_known([step.moved_bytes for step in steps]), seconds, device)
        host_wait_ratio = sum(step.host_wait_seconds for step in steps) / seconds
        return used, moved, roofline.bound(used, moved, host_wait_ratio)

    def _summary(self, status: Status, error: BaseException | None, seconds: float | None) -> StageReport:
        finished = tuple(self._finished)
        records = tuple(step.record for step in finished)
        used, moved, bound = self._utilisation(finished)
        return dataclasses.replace(
            self._start,
            status=status,
            error=describe_error(error),
            seconds=seconds,
            compile_seconds=self.compile_log.seconds,
            compile_cache=self.compile_log.cache,
            recompiles=len(self._recompiles),
            recompile_reasons=tuple(_recompile_reason(step) for step in tuple(self._recompiles.values())),
            steps=records,
            step_seconds=step_statistics(records),
            first_nonfinite_step=next((i for i, r in enumerate(records) if r.finite is False), None),
            flops=_sum_known([step.flops for step in finished]),
            mfu=used,
            mbu=moved,
            bound=bound,
            hbm=self._hbm.usage(),
        )


class Run:
    """A run of a pipeline. Made by `run(...)`; not for use from several threads at once."""

    def __init__(
        self,
        pipeline: str,
        *,
        model_id: str | None,
        params: Params,
        devices: Sequence[Any],
        peak_flops_per_chip: float | None,
        bus: Bus,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.run_id = uuid.uuid4().hex
        self.pipeline = pipeline
        self.devices = tuple(devices)
        self.device = describe_devices(self.devices, peak_flops_per_chip)
        self.bus = bus
        self.clock = clock
        self.output: str | None = None
        self._model_id = model_id
        self._params = dict(params)
        self._wall_clock = wall_clock
        self._stages: list[Stage] = []
        self._stage_is_open = False
        self._final: RunReport | None = None
        self._started_at = clock()
        self._started_unix_seconds = wall_clock()

    @property
    def report(self) -> RunReport:
        """The run as known so far; final once it has ended."""
        return self._final or self._summary(Status.RUNNING, None, None)

    @contextlib.contextmanager
    def stage(
        self,
        name: StageName | str,
        *,
        component: str | None = None,
        steps: int | None = None,
        flops_per_step: float | None = None,
        flops_method: str | None = None,
        bytes_per_step: float | None = None,
    ) -> Iterator[Stage]:
        """A stage; its end waits for its steps, so `seconds` is what the device needed.

        `component` says which part of the model (a `load` has one each); `steps` how many are to come,
        for the ETA; `flops_per_step` the model FLOPs of a step over all devices, and `flops_method` where
        they come from; `bytes_per_step` the bytes that must move through HBM in a step, over all devices.

        Raises ValueError for a name that is no stage, TelemetryError where another stage is still open,
        and the device's own error where a step failed on the device and nothing else has raised it.
        """
        if self._stage_is_open:
            raise TelemetryError(f"stage {name!r} begins while another is open: end that one first")
        report = dataclasses.replace(
            _EMPTY_STAGE,
            name=_stage_name(name),
            component=component,
            started_unix_seconds=self._wall_clock(),
            steps_total=steps,
            flops_method=flops_method if flops_per_step is not None else None,
        )
        stage = Stage(self, len(self._stages), report, flops_per_step, bytes_per_step)
        self._stages.append(stage)
        self._stage_is_open = True
        self.bus.publish(StageStarted(self.run_id, len(self._stages) - 1, report))
        error: BaseException | None = None
        try:
            with compiles.attributed_to(stage.compile_log):
                yield stage
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._stage_is_open = False
            ended_by = stage.finish(error)
            if error is None and ended_by is not None:
                raise ended_by

    def finish(self, error: BaseException | None) -> None:
        """Ends the run, and a stage that Ctrl-C left unfinished, and publishes the report."""
        for stage in self._stages:
            stage.finish(error)
        seconds = self.clock() - self._started_at
        self._final = self._summary(status_of(error), error, seconds)
        self.bus.publish(RunFinished(self._final))

    def _summary(self, status: Status, error: BaseException | None, seconds: float | None) -> RunReport:
        started = datetime.datetime.fromtimestamp(self._started_unix_seconds, datetime.UTC)
        return RunReport(
            run_id=self.run_id,
            pipeline=self.pipeline,
            model_id=self._model_id,
            params=self._params,
            status=status,
            error=describe_error(error),
            started_at=started.isoformat(timespec="milliseconds"),
            started_unix_seconds=self._started_unix_seconds,
            total_seconds=seconds,
            output=self.output,
            device=self.device,
            stages=tuple(stage.report for stage in tuple(self._stages)),
        )


bus = Bus()
history = History()


@contextlib.contextmanager
def run(
    pipeline: str,
    *,
    model_id: str | None = None,
    params: Params | None = None,
    devices: Sequence[Any] = (),
    peak_flops_per_chip: float | None = None,
    bus: Bus = bus,
    history: History = history,
    clock: Callable[[], float] = time.perf_counter,
    wall_clock: Callable[[], float] = time.time,
) -> Iterator[Run]:
    """Records a run of `pipeline` on these jax devices; without devices there are no MFU and no HBM.

    An exception ends the run as `failed` with its reason, Ctrl-C as `cancelled`; both go on to the caller.
    `peak_flops_per_chip` is for a device that the chip table does not have.
    """
    recorded = Run(
        pipeline,
        model_id=model_id,
        params=params or {},
        devices=devices,
        peak_flops_per_chip=peak_flops_per_chip,
        bus=bus,
        clock=clock,
        wall_clock=wall_clock,
    )
    history.add(recorded)
    bus.publish(RunStarted(recorded.report))
    try:
        yield recorded
    except BaseException as error:
        recorded.finish(error)
        raise
    recorded.finish(None)


def status_of(error: BaseException | None) -> Status:
    """`cancelled` for Ctrl-C and what else is no `Exception` (exit, a cancelled task); else `failed`."""
    if error is None:
        return Status.SUCCEEDED
    return Status.FAILED if isinstance(error, Exception) else Status.CANCELLED


def describe_error(error: BaseException | None) -> str | None:
    """`ValueError: what it says`, for the report."""
    return None if error is None else f"{type(error).__name__}: {error}".rstrip(": ")


def step_statistics(records: Sequence[StepRecord]) -> StepSeconds | None:
    """Over the steps in which no compile fell; None where there is none. p95 is the nearest rank."""
    seconds = sorted(record.seconds for record in records if not record.compiled)
    if not seconds:
        return None
    p95 = seconds[-(-95 * len(seconds) // 100) - 1]
    return StepSeconds(statistics.median(seconds), p95, seconds[0], seconds[-1])


def _recompile_reason(step: Sequence[compiles.Compile]) -> str:
    """What jax said about the compiles of one step, or else what was compiled."""
    reasons = [compiled.reason for compiled in step if compiled.reason]
    return "; ".join(reasons) or ", ".join(str(compiled.function) for compiled in step)


def _sum_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _stage_name(name: StageName | str) -> StageName:
    try:
        return StageName(name)
    except ValueError:
        raise ValueError(f"stage {name!r} is none of {', '.join(StageName)}") from None


_EMPTY_STAGE = StageReport(
    name=StageName.LOAD,
    component=None,
    status=Status.RUNNING,
    error=None,
    started_unix_seconds=0.0,
    seconds=None,
    compile_seconds=0.0,
    compile_cache=None,
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
)
