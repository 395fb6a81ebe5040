"""What a terminal, and a log, show of a download while it goes on."""

from __future__ import annotations

import io

from rich.console import Console

from crystools_tpu import telemetry
from crystools_tpu.cli.live import watch
from crystools_tpu.telemetry import Bus, History, StageName

GIB = 2**30


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
    assert lines[:2] == ["download ...", "  10.00 GiB of 100.00 GiB, 2.50 GiB/s, 36 s to go"]
    assert len(lines) == 12
    assert lines[-1].endswith(" s, 100.00 GiB")


def test_a_terminal_has_a_bar_with_bytes_rate_and_time_to_go() -> None:
    text = shown(terminal=True, readings=[0, 7 * GIB])
    assert "download" in text
    assert "7.00 GiB" in text
    assert "0/1" not in text


def test_of_a_download_of_unknown_size_the_bytes_are_shown() -> None:
    lines = shown(terminal=False, readings=[GIB, 2 * GIB], total=None).splitlines()
    assert lines[1] == "  1.00 GiB"
    assert lines[-1].endswith(" s, 2.00 GiB")
