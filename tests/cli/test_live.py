"""The display of a run: a download, and that what it cannot show is no reason for the run to end."""

from __future__ import annotations

import dataclasses
import io
import re
import threading

import pytest
from rich.console import Console

from crystools_tpu import telemetry
from crystools_tpu.cli.live import _progress, stage_note, watch
from crystools_tpu.telemetry import Bus, History, StageName
from tests.rigs.workflow_run import WORKFLOW, with_nan

GIB = 2**30


class Torn(io.StringIO):
    """A terminal that is gone after the first line, as a pipe that is closed."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal
        self.closed_by_reader = False

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        if self.closed_by_reader:
            raise ValueError("the reader is gone")
        return super().write(text)


@pytest.mark.parametrize(
    ("terminal", "when"), [(False, "from the start"), (False, "in the run"), (True, "from the start")]
)
def test_an_output_that_is_gone_is_one_warning_and_the_run_goes_on(
    terminal: bool, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = Torn(terminal=terminal)
    console = Console(file=out, force_terminal=terminal)
    bus = telemetry.Bus()
    out.closed_by_reader = when == "from the start"
    before = set(threading.enumerate())
    with watch(bus, console), telemetry.run("test", bus=bus, history=telemetry.History()) as run:
        with run.stage("load"):
            pass
        out.closed_by_reader = True
        with run.stage("denoise", steps=20) as stage:
            for _ in range(20):
                stage.step(None)
    assert run.report.status is telemetry.Status.SUCCEEDED
    assert set(threading.enumerate()) <= before
    said = [message for message in caplog.messages if "progress" in message]
    assert said == ["the run's progress could not be shown: ValueError: the reader is gone"]


class Clock:
    """Two seconds from one reading to the next."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 2
        return self.seconds


def shown(*, terminal: bool, readings: list[int], total: int | None = 28 * GIB) -> str:
    """What `watch` prints of a download."""
    bus, out = Bus(), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
    with watch(bus, console), telemetry.run("x", bus=bus, history=History(), clock=Clock()) as run:
        with run.stage(StageName.DOWNLOAD, bytes_total=total) as stage:
            for reading in readings:
                stage.transferred(reading)
    return out.getvalue()


def test_a_log_has_about_ten_lines_of_a_download() -> None:
    readings = [count * 5 * GIB for count in range(21)]
    lines = shown(terminal=False, readings=readings, total=100 * GIB).splitlines()
    assert lines[:2] == ["download ...", "  10.00 GiB of 100.00 GiB, 2.50 GiB/s, 0:36 left of download"]
    assert len(lines) == 12
    assert lines[-1].endswith(" s, 100.00 GiB")


def test_of_a_run_that_is_known_it_is_said_what_is_left_of_it_and_of_its_stage() -> None:
    """As the history has it: a decoder of an hour is to come."""
    bus, out, clock = Bus(), io.StringIO(), iter(range(0, 10_000, 10))
    before = History()
    with telemetry.run("x", bus=Bus(), history=before, clock=lambda: 0.0) as run:
        with run.stage("denoise", steps=4):
            pass
    (report,) = before.reports()
    stages = [dataclasses.replace(report.stages[0], seconds=40.0)]
    stages.append(dataclasses.replace(stages[0], name=StageName.VAE_DECODE, seconds=3600.0, steps_total=None))
    alike = [dataclasses.replace(report, stages=tuple(stages), total_seconds=3640.0)]
    with (
        watch(bus, Console(file=out, width=120), lambda run: alike),
        telemetry.run("x", bus=bus, history=History(), clock=lambda: float(next(clock))) as run,
        run.stage("denoise", steps=4) as stage,
    ):
        for _ in range(4):
            stage.step(None)
    steps = [line for line in out.getvalue().splitlines() if line.startswith("  step")]
    assert len(steps) == 4
    *earlier, last = steps
    assert all(re.search(r", \d:\d\d left of denoise, 1:0\d:\d\d of the run$", line) for line in earlier)
    assert last.endswith(" s, 1:00:00 left of the run")


def test_a_terminal_has_a_bar_with_bytes_rate_and_time_to_go() -> None:
    text = shown(terminal=True, readings=[0, 7 * GIB])
    assert "download" in text
    assert "7.00 GiB" in text
    assert "0/1" not in text


def test_the_end_of_a_stage_says_that_it_made_nan() -> None:
    (denoise,) = (stage for stage in with_nan(WORKFLOW).stages if stage.name is StageName.DENOISE)
    assert stage_note(denoise) == "45.00 s, NaN from step 12"


def test_of_a_download_of_unknown_size_the_bytes_are_shown() -> None:
    lines = shown(terminal=False, readings=[GIB, 2 * GIB], total=None).splitlines()
    assert lines[1] == "  1.00 GiB"
    assert lines[-1].endswith(" s, 2.00 GiB")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_on_a_narrow_terminal_a_title_gives_way_and_no_figure_does(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, _environ={})
    progress = _progress(console)
    note = "2.250 s, 1:25 left of denoise, 2:20 of the run, MFU 39.1%"
    title = "a node with a title that its user never finished"
    progress.add_task(title, total=50, completed=12, note=note, bytes=False)
    with console.capture() as captured:
        console.print(progress.get_renderable())
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    shown = " ".join(" ".join(lines).split())
    for figure in ("12/50", "0:00:00", "2.250 s", "1:25", "2:20", "39.1%"):
        assert figure in shown
    assert "a node with a title" in shown
