"""Shows a run while it happens: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from crystools_tpu import telemetry
from crystools_tpu.cli.console import can_redraw, note_column, print_line, spinner
from crystools_tpu.stage_table import forecast_note, step_note, transfer_note
from crystools_tpu.telemetry import (
    Bus,
    BytesTransferred,
    CompileFinished,
    Event,
    Fold,
    StageFinished,
    StageReport,
    StageStarted,
    StepFinished,
    size_label,
    stage_label,
)
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.time_to_go import AlikeOf, nothing_alike
from crystools_tpu.telemetry.words import kinds_text

logger = logging.getLogger(__name__)

_NOT_SHOWN = "the run's progress could not be shown"

# A line for each of a hundred steps is noise in a log: about ten a stage are enough.
_LINES_PER_STAGE = 10
_WIDE_COLUMNS = 125
_WIDEST_LABEL = 28


@contextlib.contextmanager
def watch(bus: Bus, console: Console, alike_of: AlikeOf = nothing_alike) -> Iterator[None]:
    """Shows what the bus says for as long as the block lasts, in a thread of its own.

    `alike_of`, which may block, gives the runs that are like one, for its time to go.
    """
    guard = Guard(logger)
    shown = contextlib.ExitStack()
    with guard(_NOT_SHOWN):
        show = PlainLines(console).show
        if can_redraw(console):
            show = LiveBars(shown.enter_context(_progress(console))).show
        fold = Fold(telemetry.history.report, time.time, alike_of)
        shown.enter_context(_pumping(bus, fold, show, guard))
    try:
        yield
    finally:
        with guard(_NOT_SHOWN):
            shown.close()


@contextlib.contextmanager
def _pumping(bus: Bus, fold: Fold, show: Callable[[Event], None], guard: Guard) -> Iterator[None]:
    with bus.subscribe() as subscription:

        def pump() -> None:
            while (event := subscription.get()) is not None:
                with guard(_NOT_SHOWN):
                    try:
                        show(fold.add(event))
                    except OSError:
                        return  # nobody can see it any more: the run goes on, and the command's end says it

        thread = threading.Thread(target=pump, name="crystools-tpu-display")
        thread.start()
        yield
    thread.join()


def _progress(console: Console) -> Progress:
    wide = console.width >= _WIDE_COLUMNS
    label = Column(no_wrap=True, overflow="ellipsis", max_width=_WIDEST_LABEL)
    return Progress(
        spinner(console),
        TextColumn("{task.description:<24}" if wide else "{task.description}", table_column=label),
        *([BarColumn(bar_width=24)] if wide else []),
        _DoneOfTotal(),
        TimeElapsedColumn(),
        note_column(),
        console=console,
    )


class _DoneOfTotal(ProgressColumn):
    """Steps done of those there are; of a download nothing, for its note says how many bytes."""

    def render(self, task: Task) -> Text:
        """The column of one stage."""
        if task.fields["bytes"]:
            return Text("")
        return Text(f"{int(task.completed)}/{int(task.total or 0)}", style="progress.download")


class LiveBars:
    """One bar a stage, with seconds a step, what is left of it and of the run, and MFU, or a compile."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def show(self, event: Event) -> None:
        """Moves the bar of the event's stage."""
        if isinstance(event, StageStarted):
            self._task = self._progress.add_task(
                stage_label(event.report),
                total=event.report.steps_total or event.report.bytes_total or 1,
                note=forecast_note(event.report),
                bytes=event.report.bytes_total is not None,
            )
        elif self._task is None:
            return
        elif isinstance(event, StepFinished):
            self._progress.update(self._task, completed=event.step + 1, note=step_note(event))
        elif isinstance(event, BytesTransferred):
            done = None if event.bytes_total is None else event.bytes_done
            self._progress.update(self._task, completed=done, note=transfer_note(event))
        elif isinstance(event, CompileFinished):
            self._progress.update(self._task, note=f"compiled for {event.stage_compile_seconds:.1f} s")
        elif isinstance(event, StageFinished):
            self._progress.update(self._task, completed=_done(event.report), note=stage_note(event.report))


def _done(report: StageReport) -> int:
    """How far the bar of a stage is that has ended."""
    if report.error is None:
        return report.steps_total or report.bytes_total or 1
    return len(report.steps) or report.bytes_done or 0


class PlainLines:
    """A line at the start and end of a stage, and about ten in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tenths = 0

    def show(self, event: Event) -> None:
        """Prints the event's line, if it has one."""
        if isinstance(event, StageStarted):
            self._tenths = 0
            print_line(
                self._console, f"{stage_label(event.report)} ... {forecast_note(event.report)}".rstrip()
            )
        elif isinstance(event, StepFinished):
            every = max(1, (event.steps_total or 1) // _LINES_PER_STAGE)
            if (event.step + 1) % every == 0:
                total = f"/{event.steps_total}" if event.steps_total else ""
                print_line(self._console, f"  step {event.step + 1}{total}  {step_note(event)}")
        elif isinstance(event, BytesTransferred):
            tenths = _LINES_PER_STAGE * event.bytes_done // (event.bytes_total or event.bytes_done or 1)
            if tenths > self._tenths:
                self._tenths = tenths
                print_line(self._console, f"  {transfer_note(event)}")
        elif isinstance(event, StageFinished):
            print_line(self._console, f"{stage_label(event.report)}: {stage_note(event.report)}")


def stage_note(report: StageReport) -> str:
    """How the stage ended."""
    parts = [f"{report.seconds:.2f} s" if report.seconds is not None else "not finished"]
    if report.bytes_done is not None:
        parts.append(size_label(report.bytes_done))
    if (kinds := kinds_text(report)) is not None:
        parts.append(kinds)
    if report.compile_seconds:
        parts.append(f"{report.compile_seconds:.2f} s of it compile")
    if report.recompiles:
        parts.append(f"{report.recompiles} recompiles: {report.recompile_reasons[0]}")
    if report.first_nonfinite_step is not None:
        parts.append(f"NaN from step {report.first_nonfinite_step}")
    if report.error is not None:
        parts.append(report.error)
    return ", ".join(parts)
