"""Shows a run while it happens: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from crystools_tpu.cli.console import can_redraw, spinner
from crystools_tpu.stage_table import forecast_note, stage_label, step_note
from crystools_tpu.telemetry import (
    Bus,
    CompileFinished,
    Event,
    StageFinished,
    StageReport,
    StageStarted,
    StepFinished,
    Subscription,
)

# A line for each of a hundred steps is noise in a log: about ten a stage are enough.
_LINES_PER_STAGE = 10
_WIDE_COLUMNS = 80


class Display(Protocol):
    """Takes events as they come."""

    def show(self, event: Event) -> None:
        """Shows one event."""


@contextlib.contextmanager
def watch(bus: Bus, console: Console) -> Iterator[None]:
    """Shows what the bus says for as long as the block lasts, in a thread of its own."""
    with contextlib.ExitStack() as stack:
        display: Display = PlainLines(console)
        if can_redraw(console):
            display = LiveBars(stack.enter_context(_progress(console)))
        subscription = bus.subscribe()
        thread = threading.Thread(target=_pump, args=(subscription, display), name="crystools-tpu-display")
        thread.start()
        try:
            yield
        finally:
            subscription.close()
            thread.join()


def _pump(subscription: Subscription, display: Display) -> None:
    while (event := subscription.get()) is not None:
        try:
            display.show(event)
        except OSError:
            return  # nobody can see it any more: the run goes on, and the command's end says it


def _progress(console: Console) -> Progress:
    wide = console.width >= _WIDE_COLUMNS
    return Progress(
        spinner(console),
        TextColumn("{task.description:<24}" if wide else "{task.description}"),
        *([BarColumn(bar_width=24)] if wide else []),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


class LiveBars:
    """One bar a stage, with seconds a step, ETA and MFU, or what is being compiled."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def show(self, event: Event) -> None:
        """Moves the bar of the event's stage."""
        if isinstance(event, StageStarted):
            self._task = self._progress.add_task(
                stage_label(event.report),
                total=event.report.steps_total or 1,
                note=forecast_note(event.report),
            )
        elif self._task is None:
            return
        elif isinstance(event, StepFinished):
            self._progress.update(self._task, completed=event.step + 1, note=step_note(event))
        elif isinstance(event, CompileFinished):
            self._progress.update(self._task, note=f"compiled for {event.stage_compile_seconds:.1f} s")
        elif isinstance(event, StageFinished):
            done = event.report.steps_total or 1 if event.report.error is None else len(event.report.steps)
            self._progress.update(self._task, completed=done, note=stage_note(event.report))


class PlainLines:
    """A line at the start and end of a stage, and about ten in between."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, event: Event) -> None:
        """Prints the event's line, if it has one."""
        if isinstance(event, StageStarted):
            self._print(f"{stage_label(event.report)} ... {forecast_note(event.report)}".rstrip())
        elif isinstance(event, StepFinished):
            every = max(1, (event.steps_total or 1) // _LINES_PER_STAGE)
            if (event.step + 1) % every == 0:
                total = f"/{event.steps_total}" if event.steps_total else ""
                self._print(f"  step {event.step + 1}{total}  {step_note(event)}")
        elif isinstance(event, StageFinished):
            self._print(f"{stage_label(event.report)}: {stage_note(event.report)}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def stage_note(report: StageReport) -> str:
    """How the stage ended."""
    parts = [f"{report.seconds:.2f} s" if report.seconds is not None else "not finished"]
    if report.compile_seconds:
        parts.append(f"{report.compile_seconds:.2f} s of it compile")
    if report.recompiles:
        parts.append(f"{report.recompiles} recompiles: {report.recompile_reasons[0]}")
    if report.error is not None:
        parts.append(report.error)
    return ", ".join(parts)
