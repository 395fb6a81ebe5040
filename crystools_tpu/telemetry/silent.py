"""A run that nobody is told of, for a process that must not report: one that follows another host's."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Unpack

from crystools_tpu.telemetry.events import (
    FULL,
    Attachment,
    Forecast,
    Params,
    RunReport,
    StageName,
    StageReport,
    StageWork,
    Status,
)
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.protocol import CachedStep, RunFacts, StageFacts
from crystools_tpu.telemetry.recorder import run_begun, stage_begun
from crystools_tpu.telemetry.stage import status_of
from crystools_tpu.telemetry.steps import check_can_wait, wait_for

logger = logging.getLogger(__name__)


class SilentStage:
    """The `StageRecorder` that records nothing. It keeps the pace: two steps in flight, none at its end."""

    def __init__(self) -> None:
        self._newest: Any = None

    def step(
        self,
        done: Any,
        *,
        kind: str = FULL,
        flops: float | None = None,
        moved_bytes: float | None = None,
        cached: CachedStep | None = None,
    ) -> None:
        """Waits for the step before this one."""
        check_can_wait(done)
        previous, self._newest = self._newest, done
        wait_for(previous)

    def transferred(self, bytes_done: int) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Waits for the last step."""
        wait_for(self._newest)


class SilentRun:
    """The `RunRecorder` that records nothing: its report has its stages and how they ended, no figure."""

    def __init__(self, pipeline: str, **facts: Unpack[RunFacts]) -> None:
        self._report = run_begun(pipeline, time.time(), Guard(logger), facts)
        self.run_id = self._report.run_id
        self.devices = tuple(facts.get("devices", ()))
        self.output: str | None = None
        self._stages: list[StageReport] = []

    @property
    def report(self) -> RunReport:
        """The run's stages and how they and the run stand."""
        return dataclasses.replace(self._report, output=self.output, stages=tuple(self._stages))

    @contextlib.contextmanager
    def stage(self, name: StageName | str, **facts: Unpack[StageFacts]) -> Iterator[SilentStage]:
        """A stage; its end waits for its steps. Raises as the stage of a run that is recorded."""
        is_open = bool(self._stages) and self._stages[-1].status is Status.RUNNING
        report = stage_begun(name, facts.get("component"), time.time(), another_is_open=is_open)
        self._stages.append(report)
        stage, status = SilentStage(), Status.SUCCEEDED
        try:
            yield stage
            stage.finish()
        except BaseException as error:
            status = status_of(error)
            raise
        finally:
            self._stages[-1] = dataclasses.replace(report, status=status)

    def warn(self, warning: str) -> None:
        """Nothing: whoever records the run says it."""

    def attach(self, attachment: Attachment) -> None:
        """Nothing: whoever records the run has it kept."""

    def finish(self, error: BaseException | None) -> None:
        """Ends the run."""
        self._report = dataclasses.replace(self._report, status=status_of(error))


@contextlib.contextmanager
def silent_run(
    pipeline: str,
    *,
    model_id: str | None = None,
    params: Params | None = None,
    content_params: Collection[str] | None = None,
    devices: Sequence[Any] = (),
    peak_flops_per_chip: float | None = None,
    forecast: Forecast | None = None,
    work: Sequence[StageWork] = (),
) -> Iterator[SilentRun]:
    """Takes the place of `run` where nothing is to be said: no event, no history, no log, no thread.

    The pipeline runs at the same pace and ends with the same errors.
    """
    silent = SilentRun(pipeline, model_id=model_id, params=params, devices=devices)
    try:
        yield silent
    except BaseException as error:
        silent.finish(error)
        raise
    silent.finish(None)
