"""What ComfyUI shows of a node while it works, and its Cancel."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from crystools_tpu import telemetry
from crystools_tpu.comfyui.previews import Previews
from crystools_tpu.telemetry import (
    BytesTransferred,
    CompileFinished,
    Event,
    Forecast,
    RunChanged,
    RunStarted,
    RunWarned,
    StageFinished,
    StageForecast,
    StageName,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
    WorkflowRun,
)
from crystools_tpu.telemetry.amounts import duration_text
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.step_times import count_cached, step_statistics

logger = logging.getLogger(__name__)

_NOT_SHOWN = "ComfyUI could not be told how the node gets on"
_COLUMNS: Final = 44
"""Of the text on a node as wide as ComfyUI makes one."""


class Cancelled(BaseException):
    """The user cancelled. No Exception, so that telemetry ends the run as `cancelled`, not as `failed`."""

    def __init__(self, interrupted: Exception) -> None:
        super().__init__()
        self.interrupted = interrupted


@contextlib.contextmanager
def node_progress(
    node_id: str | None,
    modules: Mapping[str, ModuleType] = sys.modules,
    *,
    steps: int | None = None,
    previews: Previews | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[], None]]:
    """Within, ComfyUI shows on the node what it reports: its part of the workflow's run, or runs of its own.

    `steps` are those of all its denoising together, where it denoises: then no others count. Yields what is
    to be called after each step, in the thread that executes the node: it moves the bar and, if the user has
    cancelled, ends the block with ComfyUI's own exception. With the bar goes the newest of `previews`. At the
    end the text says what the node took, or after how many steps it was cancelled or failed. Without a node's
    id, or where no ComfyUI runs, it does nothing.
    """
    server = getattr(getattr(modules.get("server"), "PromptServer", None), "instance", None)
    utils, management = modules.get("comfy.utils"), modules.get("comfy.model_management")
    display: _Display | None = None
    guard = Guard(logger)
    if node_id is not None and server is not None and utils is not None and management is not None:
        with guard(_NOT_SHOWN):
            bar = utils.ProgressBar(1)
            display = _Display(server, node_id, bar, management, guard, steps, previews, clock)
    if display is None:
        yield lambda: None
        return
    with telemetry.bus.subscribe(wakeup=lambda: display.show(subscription.drain())) as subscription:
        try:
            yield display.step
            display.step()
        except Cancelled as cancelled:
            display.end(Status.CANCELLED)
            raise cancelled.interrupted from None
        except Exception:
            display.end(Status.FAILED)
            raise
        display.end(Status.SUCCEEDED)


class _Display:
    """The bar and the line of text of a node. `show` is called in any thread, `step` in the executing one."""

    def __init__(
        self,
        server: Any,
        node_id: str,
        bar: Any,
        management: Any,
        guard: Guard,
        steps: int | None,
        previews: Previews | None,
        clock: Callable[[], float],
    ) -> None:
        self._server = server
        self._bar = bar
        self._management = management
        self._guard = guard
        self._previews = previews
        self._node_id = node_id
        self._steps = steps
        self._total: int | None = None
        self._finished = 0
        self._began = clock()
        self._clock = clock
        self._label = ""
        self._warnings: list[str] = []
        self._runs: set[str] = set()
        self._stages: set[tuple[str, int]] = set()
        self._ended: list[StageReport] = []
        self._expected: set[StageForecast] = set()
        workflows = [run for run in telemetry.history.running() if isinstance(run, WorkflowRun)]
        if workflows:  # ComfyUI executes one at a time: of another the end was not heard
            self._runs.add(workflows[-1].run_id)
            self._expect(workflows[-1].report.forecast)
            self._warnings.clear()  # of the nodes before this one

    def show(self, events: list[Event]) -> None:
        """Counts steps as the devices finish them, and says what is going on."""
        for event in events:
            with self._guard(_NOT_SHOWN):
                self._show(event)

    def _show(self, event: Event) -> None:
        from crystools_tpu import stage_table

        if isinstance(event, RunStarted):
            self._runs.add(event.report.run_id)
            self._expect(event.report.forecast)
        elif isinstance(event, RunChanged):
            if event.report.run_id in self._runs:
                self._expect(event.report.forecast)
        elif isinstance(event, RunWarned):
            if event.run_id in self._runs:
                self._warnings.append(event.warning)
        elif isinstance(event, StageStarted):
            if self._is_of_the_node(event):
                self._stages.add((event.run_id, event.stage))
                self._label = telemetry.stage_label(event.report)
                self._total = self._steps or event.report.steps_total or self._total
                self._note(stage_table.forecast_note(event.report) or "...")
        elif isinstance(event, StageFinished):
            if (event.run_id, event.stage) in self._stages:
                self._ended.append(event.report)
        elif not isinstance(event, BytesTransferred | CompileFinished | StepFinished):
            return
        elif (event.run_id, event.stage) in self._stages:
            self._note(self._told(event))

    def _told(self, event: BytesTransferred | CompileFinished | StepFinished) -> str:
        from crystools_tpu import stage_table

        if isinstance(event, BytesTransferred):
            return stage_table.transfer_note(event)
        if isinstance(event, CompileFinished):
            return f"compiled for {event.stage_compile_seconds:.1f} s"
        if self._steps is None or event.stage_name is StageName.DENOISE:
            self._finished += 1
        total = "" if event.steps_total is None else f"/{event.steps_total}"
        return f"step {event.step + 1}{total}, {stage_table.step_note(event)}"

    def _is_of_the_node(self, event: StageStarted) -> bool:
        """Whether the stage is the node's: of a run of its own, or a part of its stage of the workflow."""
        if event.report.node is not None or event.run_id not in self._runs:
            return False
        run, parent = telemetry.history.report(event.run_id), event.report.parent
        if run is None or parent is None:
            return True
        node = run.stages[parent].node
        return node is not None and node.id == self._node_id

    def _expect(self, forecast: Forecast | None) -> None:
        """Warns of what is expected from now on and will not fit."""
        if forecast is not None:
            new = tuple(stage for stage in forecast.stages if stage not in self._expected)
            self._expected.update(new)
            if warning := telemetry.forecast_warning(dataclasses.replace(forecast, stages=new)):
                self._warnings.append(warning)

    def step(self) -> None:
        """Moves the bar. Raises Cancelled if the user has cancelled, which moving it may find out too."""
        try:
            with self._guard(_NOT_SHOWN):
                try:
                    picture = None if self._previews is None else self._previews.newest()
                    shown = {} if picture is None else {"preview": picture}
                    self._bar.update_absolute(self._finished, self._total or 1, **shown)
                except self._management.InterruptProcessingException as interrupted:
                    raise Cancelled(interrupted) from None
            self._management.throw_exception_if_processing_interrupted()
        except self._management.InterruptProcessingException as interrupted:
            raise Cancelled(interrupted) from None

    def end(self, status: Status) -> None:
        """Says how the node ended, which then stays on it. Where nothing was said before, nothing is."""
        with self._guard(_NOT_SHOWN):
            if self._label:
                self._say(self._outcome(status))

    def _outcome(self, status: Status) -> str:
        seconds = duration_text(self._clock() - self._began)
        if status is Status.SUCCEEDED:
            return ", ".join([seconds, *_figures(self._counted()), *_nans(self._ended)])
        if self._total is None:
            return f"{status.value} in {self._label}, after {seconds}"
        return f"{status.value} after {self._finished} of {self._total} steps, in {seconds}"

    def _counted(self) -> list[StageReport]:
        """The stages whose steps the bar counts."""
        return [stage for stage in self._ended if self._steps is None or stage.name is StageName.DENOISE]

    def _note(self, what: str) -> None:
        self._say(f"{self._label}: {what}")

    def _say(self, what: str) -> None:
        """Sends a text to the page that queued the prompt, and to nobody else."""
        if self._server.client_id is not None:
            text = "\n".join(line for said in (what, *self._warnings) for line in _lines(said))
            self._server.send_progress_text(text, self._node_id, self._server.client_id)


def _figures(stages: Sequence[StageReport]) -> Iterator[str]:
    """`1.46 s a step`, `18 of 40 steps cached`, `MFU 6.9%`: of all steps of these stages; and a NaN.

    The seconds are of full steps that were steps alone.
    """
    timed = step_statistics(step for stage in stages for step in stage.steps)
    if timed is not None:
        yield f"{duration_text(timed.median)} a step"
    if skipped := sum(map(count_cached, stages)):
        steps = sum(len(stage.steps) for stage in stages if count_cached(stage))
        yield f"{skipped} of {steps} steps cached"
    with_steps = [stage for stage in stages if stage.steps]
    used = [stage.mfu for stage in with_steps if stage.mfu is not None]
    if used and len(used) == len(with_steps):
        share = sum(mfu.numerator for mfu in used) / sum(mfu.denominator for mfu in used)
        yield f"MFU {share:.1%}"


def _nans(stages: Sequence[StageReport]) -> Iterator[str]:
    """`NaN from step 3 of denoise`."""
    for stage in stages:
        if stage.first_nonfinite_step is not None:
            yield f"NaN from step {stage.first_nonfinite_step} of {telemetry.stage_label(stage)}"


def _lines(text: str) -> list[str]:
    """The text in lines that are shown whole: ComfyUI's page would break longer ones within words."""
    return textwrap.wrap(text, _COLUMNS, break_long_words=False, break_on_hyphens=False)
