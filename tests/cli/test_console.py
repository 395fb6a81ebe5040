"""What is printed on every kind of terminal and file, and what becomes of a command that cannot print."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crystools_tpu import telemetry
from crystools_tpu.cli.console import can_redraw, make_console, print_table, printed
from crystools_tpu.cli.errors import CheckFailed
from crystools_tpu.cli.live import watch
from crystools_tpu.cli.main import main
from crystools_tpu.telemetry import Bus


def table() -> Table:
    made = Table(title="a run", box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("stage", "seconds", "HBM peak", "fits"):
        made.add_column(heading, no_wrap=True)
    made.add_column("what")
    made.add_row(
        "denoise transformer", "71.250", "15.25 GiB", "[green]yes[/]", "a red fox jumps over the brook"
    )
    made.add_row("save", "0.112", "-", "", Text("…", no_wrap=True, overflow="ellipsis"))
    return made


def lines(width: int, encoding: str = "utf-8", *, terminal: bool = True) -> list[str]:
    """What is printed of the table, without blanks at the ends of lines and without colours."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    print_table(
        Console(file=file, width=width, force_terminal=terminal, color_system=None, _environ={}), table()
    )
    file.flush()
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


def test_a_table_that_fits_is_a_table() -> None:
    row = " denoise transformer  71.250   15.25 GiB  yes   a red fox jumps over the brook"
    assert row in lines(100)
    assert max(map(len, lines(100))) == len(row)


@pytest.mark.parametrize("width", [76, 70])
def test_a_column_of_words_gives_way_first(width: int) -> None:
    assert " denoise transformer  71.250   15.25 GiB  yes   a red fox jumps" in "\n".join(lines(width))


def test_a_table_that_is_too_wide_is_pressed_together_before_anything_is_cut() -> None:
    printed_lines = lines(53)
    assert max(map(len, printed_lines)) <= 53
    assert " ".join(" ".join(printed_lines[2:4]).split()) == "HBM stage seconds peak fits what"
    assert " denoise transformer 71.250  15.25 GiB yes  a red" in printed_lines


@pytest.mark.parametrize("width", [40, 30])
def test_on_a_narrow_terminal_each_cell_has_a_line_and_nothing_is_cut(width: int) -> None:
    shown = lines(width)
    assert max(map(len, shown)) <= width
    assert "…" not in "".join(shown[:-3])
    text = "\n".join(shown)
    for part in ("a run", "\ndenoise transformer\n", "  seconds  71.250\n", "  HBM peak 15.25 GiB\n"):
        assert part in text
    assert (
        " ".join(text.partition("what")[2].partition("\n\n")[0].split()) == "a red fox jumps over the brook"
    )
    assert "\nsave\n  seconds 0.112\n  what" in text  # without what it has not


def test_forty_columns_to_the_letter() -> None:
    assert lines(40)[:9] == [
        "a run",
        "",
        "denoise transformer",
        "  seconds  71.250",
        "  HBM peak 15.25 GiB",
        "  fits     yes",
        "  what     a red fox jumps over the",
        "           brook",
        "",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp1252"])
def test_where_there_are_no_lines_to_draw_with_the_table_is_of_letters(encoding: str) -> None:
    text = "\n".join(lines(100, encoding))
    assert "─" not in text
    assert "|denoise transformer |71.250  |15.25 GiB |yes  |" in text
    assert "\\u" not in text


def test_a_file_is_as_wide_as_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert any("71.250   15.25 GiB  yes   a red" in line for line in lines(40, terminal=False))
    monkeypatch.setenv("COLUMNS", "40")
    assert "  HBM peak 15.25 GiB" in lines(40, terminal=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("file", "environ", "redraws"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
        (io.StringIO(), {"TERM": "xterm", "FORCE_COLOR": "1"}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, True),
    ],
)
def test_bars_are_drawn_on_terminals_that_can_redraw_alone(
    file: io.StringIO, environ: dict[str, str], redraws: bool
) -> None:
    assert can_redraw(Console(file=file, _environ=environ)) is redraws


def test_no_color_has_no_colours() -> None:
    file = Terminal()
    print_table(Console(file=file, width=100, _environ={"TERM": "xterm-256color", "NO_COLOR": "1"}), table())
    assert "\x1b[32m" not in file.getvalue()


@pytest.fixture
def prints_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes a file descriptor the standard output of this process, as it finds it when it starts."""
    opened: list[Any] = []

    def start(descriptor: int, encoding: str = "utf-8") -> None:
        stream = io.TextIOWrapper(os.fdopen(descriptor, "wb"), encoding=encoding, errors="strict")
        opened.append(stream)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", io.StringIO())

    yield start
    for stream in opened:
        with contextlib.suppress(OSError):  # what could not be written when it was printed
            stream.close()


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


MUCH = "many words " * 20_000


@pytest.mark.parametrize("text", ["a line", MUCH])
@pytest.mark.parametrize(
    ("output", "status", "said"),
    [
        (closed_pipe, 141, ""),
        (full_disk, 1, "crystools-tpu: the output could not be written: No space left on device\n"),
    ],
)
@pytest.mark.parametrize("printing", [print, lambda text: make_console().print(text)])
def test_an_output_that_cannot_be_written_is_a_status_and_no_traceback(
    prints_to: Callable[..., None],
    output: Callable[[], int],
    status: int,
    said: str,
    text: str,
    printing: Callable[[str], None],
) -> None:
    prints_to(output())

    def command() -> int:
        printing(text)
        return 0

    assert printed(command) == status
    assert isinstance(sys.stderr, io.StringIO)
    assert sys.stderr.getvalue() == said
    print("what is printed afterwards goes nowhere, and nothing complains at the end", flush=True)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["runs", "list", "--help"], ["runs", "list"]]
)
@pytest.mark.parametrize(("output", "status"), [(closed_pipe, 141), (full_disk, 1)])
def test_every_command_ends_so(
    prints_to: Callable[..., None],
    output: Callable[[], int],
    status: int,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("crystools_tpu.cli.runs.list_runs", lambda arguments: print("a run"))
    prints_to(output())
    assert main(arguments) == status


def test_a_fault_that_is_not_of_the_output_stays_what_it_is(prints_to: Callable[..., None]) -> None:
    prints_to(os.open(os.devnull, os.O_WRONLY))

    def command() -> int:
        raise BrokenPipeError(32, "of a program that makes videos")

    with pytest.raises(BrokenPipeError, match="of a program that makes videos"):
        printed(command)


def test_a_check_that_failed_has_failed_whoever_reads_it(prints_to: Callable[..., None]) -> None:
    prints_to(closed_pipe())

    def command() -> int:
        try:
            raise CheckFailed("worse")
        except CheckFailed as error:
            return error.exit_status

    assert printed(command) == 1


@pytest.mark.parametrize(
    ("encoding", "bytes_"),
    [
        ("ascii", b"L\\xf6we \\u2713 \\u6a21 \\udcff .\n"),
        ("iso-8859-1", b"L\xf6we \\u2713 \\u6a21 \\udcff .\n"),
        ("utf-8", "Löwe ✓ 模 \\udcff …\n".encode()),
    ],
)
def test_what_the_encoding_lacks_is_spelled_out(
    prints_to: Callable[..., None], encoding: str, bytes_: bytes
) -> None:
    reader, writer = os.pipe()
    prints_to(writer, encoding)

    def command() -> int:
        print("Löwe ✓ 模 \udcff …", flush=True)
        return 0

    assert printed(command) == 0
    assert os.read(reader, 1000) == bytes_
    os.close(reader)


def test_a_run_goes_on_when_nobody_can_see_it_any_more(prints_to: Callable[..., None]) -> None:
    prints_to(closed_pipe())
    faults: list[object] = []

    def command() -> int:
        bus = Bus()
        with watch(bus, make_console()):
            with telemetry.run("a", bus=bus, history=telemetry.History()) as run:
                for _ in range(3):
                    with run.stage("load", component="vae"):
                        pass
        return 0

    hook, threading.excepthook = threading.excepthook, faults.append
    try:
        assert printed(command) == 141
    finally:
        threading.excepthook = hook
    assert faults == []
