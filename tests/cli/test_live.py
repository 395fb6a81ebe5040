"""The display of a run: what it cannot show is no reason for the run to end."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from crystools_tpu import telemetry
from crystools_tpu.cli.live import watch


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
