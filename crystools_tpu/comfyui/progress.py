"""What ComfyUI shows of a node while it works, and its Cancel."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from crystools_tpu import telemetry
from crystools_tpu.comfyui.previews import Previews
from crystools_tpu.telemetry import (
    BytesTransferred,
    CompileFinished,
    Event,
    RunStarted,
    RunWarned,
    StageStarted,
    StepFinished,
)
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)

_NOT_SHOWN = "ComfyUI could not be told how the node gets on"


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
    previews: Previews | None = None,
) -> Iterator[Callable[[], None]]:
    """Within, ComfyUI shows on the node what the runs of this process report.

    Yields what is to be called after each step, in the thread that executes the node: it moves the bar and,
    if the user has cancelled, ends the block with ComfyUI's own exception. With the bar goes the newest of
    `previews`. Without a node's id, or where no ComfyUI runs, it does nothing.
    """
    server = getattr(getattr(modules.get("server"), "PromptServer", None), "instance", None)
    utils, management = modules.get("comfy.utils"), modules.get("comfy.model_management")
    display: _Display | None = None
    guard = Guard(logger)
    if node_id is not None and server is not None and utils is not None and management is not None:
        with guard(_NOT_SHOWN):
            display = _Display(server, node_id, utils.ProgressBar(1), management, guard, previews)
    if display is None:
        yield lambda: None
        return
    with telemetry.bus.subscribe(wakeup=lambda: display.show(subscription.drain())) as subscription:
        try:
            yield display.step
            display.step()
        except Cancelled as cancelled:
            raise cancelled.interrupted from None


class _Display:
    """The bar and the line of text of a node. `show` is called in any thread, `step` in the executing one."""

    def __init__(
        self, server: Any, node_id: str, bar: Any, management: Any, guard: Guard, previews: Previews | None
    ) -> None:
        self._server = server
        self._node_id = node_id
        self._bar = bar
        self._management = management
        self._guard = guard
        self._previews = previews
        self._steps_of_run: int | None = None
        self._total = 1
        self._finished = 0
        self._label = ""
        self._warnings: list[str] = []

    def show(self, events: list[Event]) -> None:
        """Counts steps as the devices finish them, and says what is going on."""
        for event in events:
            with self._guard(_NOT_SHOWN):
                self._show(event)

    def _show(self, event: Event) -> None:
        from crystools_tpu import stage_table

        if isinstance(event, RunStarted):
            steps = event.report.params.get("num_inference_steps")
            self._steps_of_run = steps if isinstance(steps, int) else None
            forecast = event.report.forecast
            if forecast is not None and (warning := telemetry.forecast_warning(forecast)):
                self._warnings.append(warning)
        elif isinstance(event, RunWarned):
            self._warnings.append(event.warning)
        elif isinstance(event, StageStarted):
            self._label = stage_table.stage_label(event.report)
            self._total = self._steps_of_run or event.report.steps_total or self._total
            self._say(stage_table.forecast_note(event.report) or "...")
        elif isinstance(event, BytesTransferred):
            self._say(stage_table.transfer_note(event))
        elif isinstance(event, CompileFinished):
            self._say(f"compiled for {event.stage_compile_seconds:.1f} s")
        elif isinstance(event, StepFinished):
            self._finished += 1
            total = "" if event.steps_total is None else f"/{event.steps_total}"
            self._say(f"step {event.step + 1}{total}, {stage_table.step_note(event)}")

    def step(self) -> None:
        """Moves the bar. Raises Cancelled if the user has cancelled, which moving it may find out too."""
        try:
            with self._guard(_NOT_SHOWN):
                try:
                    picture = None if self._previews is None else self._previews.newest()
                    shown = {} if picture is None else {"preview": picture}
                    self._bar.update_absolute(self._finished, self._total, **shown)
                except self._management.InterruptProcessingException as interrupted:
                    raise Cancelled(interrupted) from None
            self._management.throw_exception_if_processing_interrupted()
        except self._management.InterruptProcessingException as interrupted:
            raise Cancelled(interrupted) from None

    def _say(self, what: str) -> None:
        """Sends a text to the page that queued the prompt, and to nobody else."""
        if self._server.client_id is not None:
            text = "\n".join([f"{self._label}: {what}", *self._warnings])
            self._server.send_progress_text(text, self._node_id, self._server.client_id)
