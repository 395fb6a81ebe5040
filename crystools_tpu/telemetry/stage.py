"""One stage of a run: its steps as the device ran them, its compiles, its memory, its report."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from crystools_tpu.telemetry import compiles, roofline
from crystools_tpu.telemetry.clock import elapsed
from crystools_tpu.telemetry.events import (
    FULL,
    Bound,
    BytesTransferred,
    CompileFinished,
    CompileRecord,
    Device,
    Event,
    Ratio,
    StageFinished,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
    StepRecord,
)
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.hbm import HbmRecorder
from crystools_tpu.telemetry.profile import Profiler
from crystools_tpu.telemetry.protocol import CachedStep
from crystools_tpu.telemetry.step_times import Eta, planned_steps, statistics_by_kind, step_statistics
from crystools_tpu.telemetry.steps import DispatchedStep, StepWaiter, as_it_was
from crystools_tpu.telemetry.text import describe_error
from crystools_tpu.telemetry.transfer import Transfer

# After an error the device gets this long to finish the steps in flight, so that their times are kept.
_DRAIN_AFTER_ERROR_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a stage needs of its run: whose it is, on what it runs, whom it tells and by which clocks."""

    run_id: str
    pipeline: str
    devices: Sequence[Any]
    device: Device | None
    profiler: Profiler
    publish: Callable[[Event], None]
    clock: Callable[[], float]
    unix_seconds: Callable[[], float]
    guard: Guard

    def profile(self, hook: Callable[..., None], *facts: Any) -> None:
        """Tells the profiler, by one of its hooks, if somebody has asked it for a capture."""
        if self.profiler.armed:
            with self.guard("the profiler failed"):
                hook(self.run_id, *facts)


class _FinishedStep(NamedTuple):
    """A step as it was, without its output: the history must hold no array."""

    record: StepRecord
    flops: float | None
    moved_bytes: float | None
    host_wait_seconds: float


class Stage:
    """The `StageRecorder` that records. Made by `Run.stage` only."""

    def __init__(
        self,
        around: Surroundings,
        index: int,
        report: StageReport,
        flops_per_step: float | None,
        bytes_per_step: float | None,
    ) -> None:
        self._around = around
        self._guard = around.guard
        self._start = report
        self._reading_kind = around.guard("whether a step was skipped could not be read")
        self._place = around.run_id, around.pipeline, index, report.name
        self._index = index
        self._flops_per_step = around.guard.known("flops_per_step", flops_per_step, figure)
        self._bytes_per_step = around.guard.known("bytes_per_step", bytes_per_step, figure)
        self._started_at = self._last_done_at = around.clock()
        self._finished: list[_FinishedStep] = []
        self._eta = Eta(planned_steps(report), report.predicted_step_seconds)
        self._device_decides = False
        self._dispatched = 0
        self._compiles_seen = 0
        self._compiles: list[CompileRecord] = []
        self._recompiles: dict[int, list[CompileRecord]] = {}
        self._final: StageReport | None = None
        self._transfer = Transfer()
        self._hbm = HbmRecorder(around.devices, around.clock, around.guard)
        self._waiter = StepWaiter(self._step_done, around.clock, around.guard)
        self.compile_log = compiles.CompileLog(self._compile_done, around.clock, around.unix_seconds)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The stage, from beginning to end. Raises the device's error where nothing else has raised."""
        around, start = self._around, self._start
        around.publish(StageStarted(around.run_id, self._index, start))
        around.profile(around.profiler.stage_began, start.name, start.steps_total)
        attribution = contextlib.ExitStack()
        with self._guard("compiles cannot be told apart"):
            attribution.enter_context(compiles.attributed_to(self.compile_log))
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            with self._guard("compiles cannot be told apart"):
                attribution.close()
            ended_by = self.finish(error)
            if error is None and ended_by is not None:
                raise ended_by

    def step(
        self,
        done: Any,
        *,
        kind: str = FULL,
        flops: float | None = None,
        moved_bytes: float | None = None,
        cached: CachedStep | None = None,
    ) -> None:
        """Reports a step that was just dispatched, timed when the device finishes `done`.

        See `StageRecorder.step`.
        """
        compiled = self.compile_log.count > self._compiles_seen
        self._compiles_seen = self.compile_log.count
        self._dispatched += 1
        known = self._guard.known
        if cached is not None:
            cached = cached._replace(
                flops=known("flops", cached.flops, figure),
                moved_bytes=known("moved_bytes", cached.moved_bytes, figure),
            )
        moved = self._bytes_per_step if moved_bytes is None else known("moved_bytes", moved_bytes, figure)
        self._waiter.add(
            DispatchedStep(
                output=done,
                dispatched_at=self._around.clock(),
                compiled=compiled,
                kind=kind,
                flops=self._flops_per_step if flops is None else known("flops", flops, figure),
                moved_bytes=moved,
                cached=cached,
            )
        )
        around, start = self._around, self._start
        position = self._index, self._dispatched - 1
        around.profile(around.profiler.step_dispatched, position, start.name, start.steps_total)

    def transferred(self, bytes_done: int) -> None:
        """Reports how many bytes a download has brought so far."""
        with self._guard("a download's progress could not be told"):
            transfer = self._transfer
            transfer.add(self._around.clock(), bytes_done)
            self._around.publish(
                BytesTransferred(
                    *self._place,
                    bytes_done=bytes_done,
                    bytes_total=self._start.bytes_total,
                    bytes_per_second=transfer.bytes_per_second,
                    eta_seconds=transfer.eta_seconds(self._start.bytes_total),
                )
            )

    @property
    def report(self) -> StageReport:
        """The stage as known so far; final once it has ended."""
        return self._final or self._summary(Status.RUNNING, None, None)

    def finish(self, error: BaseException | None) -> BaseException | None:
        """Ends the stage: waits for its steps, publishes its report, returns the error that ended it.

        Raises nothing. Does nothing the second time, which comes where the first was interrupted by Ctrl-C.
        """
        if self._final is not None:
            return error
        device_error = self._waiter.finish(None if error is None else _DRAIN_AFTER_ERROR_SECONDS)
        self._around.profile(self._around.profiler.stage_ended)
        error = error or device_error
        self._hbm.sample(now=True)
        seconds = elapsed(self._started_at, self._around.clock())
        final = dataclasses.replace(self._start, status=status_of(error), error=describe_error(error))
        with self._guard("a stage could not be summed up"):
            final = self._summary(final.status, final.error, seconds)
        self._final = final
        self._around.publish(StageFinished(*self._place[:3], final))
        return error

    def _step_done(self, step: DispatchedStep, finished_at: float, finite: bool | None) -> None:
        if self._final is not None:  # it outlived the wait after an error: the report is out
            return
        self._around.profile(self._around.profiler.step_done, (self._index, len(self._finished)))
        last_done_at, self._last_done_at = self._last_done_at, finished_at
        seconds = elapsed(last_done_at, finished_at)
        if seconds is None:  # a step is its time
            return
        host_wait_seconds = max(0.0, min(step.dispatched_at, finished_at) - last_done_at)
        step = as_it_was(step, self._reading_kind)
        record = StepRecord(seconds, step.compiled, finite, step.kind)
        finished = _FinishedStep(record, step.flops, step.moved_bytes, host_wait_seconds)
        self._finished.append(finished)
        self._device_decides = self._device_decides or step.cached is not None
        self._eta.add(record, device_decides=self._device_decides)
        self._hbm.sample()
        used, moved, bound = self._utilisation([finished])
        self._around.publish(
            StepFinished(
                *self._place,
                step=len(self._finished) - 1,
                record=record,
                steps_total=self._start.steps_total,
                eta_seconds=self._eta.seconds,
                mfu=used,
                mbu=moved,
                bound=bound,
            )
        )

    def _compile_done(self, compiled: CompileRecord) -> None:
        self._compiles.append(compiled)
        recompile = self._dispatched > 0 and self._dispatched not in self._recompiles
        if self._dispatched > 0:
            self._recompiles.setdefault(self._dispatched, []).append(compiled)
        self._around.publish(CompileFinished(*self._place, compiled, self.compile_log.seconds, recompile))

    def _utilisation(self, steps: Sequence[_FinishedStep]) -> tuple[Ratio | None, Ratio | None, Bound | None]:
        """MFU, MBU and what bounds these steps; those in which a compile fell are left out."""
        steps = [step for step in steps if not step.record.compiled]
        seconds = sum(step.record.seconds for step in steps)
        if seconds <= 0:
            return None, None, None
        device, method = self._around.device, self._start.flops_method or ""
        used = roofline.mfu(_sum_known([step.flops for step in steps]), seconds, device, method)
        moved = roofline.mbu(_sum_known([step.moved_bytes for step in steps]), seconds, device)
        host_wait_ratio = sum(step.host_wait_seconds for step in steps) / seconds
        return used, moved, roofline.bound(used, moved, host_wait_ratio)

    def _summary(self, status: Status, error: str | None, seconds: float | None) -> StageReport:
        finished = tuple(self._finished)
        records = tuple(step.record for step in finished)
        used, moved, bound = self._utilisation(finished)
        return dataclasses.replace(
            self._start,
            status=status,
            error=error,
            seconds=seconds,
            compile_seconds=self.compile_log.seconds,
            compile_cache=self.compile_log.cache,
            compiles=tuple(self._compiles),
            recompiles=len(self._recompiles),
            recompile_reasons=tuple(map(compiles.recompile_reason, tuple(self._recompiles.values()))),
            steps=records,
            step_seconds=step_statistics(records),
            first_nonfinite_step=next((i for i, r in enumerate(records) if r.finite is False), None),
            flops=_sum_known([step.flops for step in finished]),
            mfu=used,
            mbu=moved,
            bound=bound,
            hbm=self._hbm.usage(),
            bytes_done=self._transfer.bytes_done,
            host_wait_seconds=_host_wait_seconds(finished),
            step_seconds_by_kind=statistics_by_kind(records),
            device_decides=self._device_decides,
        )


def _host_wait_seconds(steps: Sequence[_FinishedStep]) -> float | None:
    known = [step.host_wait_seconds for step in steps if not step.record.compiled]
    return sum(known) if known else None


def status_of(error: BaseException | None) -> Status:
    """`cancelled` for Ctrl-C and what else is no `Exception` (exit, a cancelled task); else `failed`."""
    if error is None:
        return Status.SUCCEEDED
    return Status.FAILED if isinstance(error, Exception) else Status.CANCELLED


def figure(value: Any) -> float:
    """The value, if it can be a number of FLOPs or bytes. Raises ValueError or TypeError where it cannot."""
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"{value!r} is no such number")
    return value if type(value) is int else float(value)


def _sum_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
