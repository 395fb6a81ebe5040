"""What commands print on: any encoding, any width, and an output that nobody can write to any more."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from rich import box
from rich.console import Console, JustifyMethod, RenderableType
from rich.progress import SpinnerColumn, TextColumn
from rich.table import Column, Table
from rich.text import Text

from crystools_tpu.cli.table_layout import LEAST_OF_TEXT, laid_out, width_in_file

_SPELLED_OUT: Final = "crystools-tpu"
_SIGPIPE_STATUS: Final = 141


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves it to the command, where rich would end the process, or the thread."""
        raise BrokenPipeError


def make_console(*, stderr: bool = False) -> Console:
    """The console of a command: standard output, or standard error."""
    return _Console(stderr=stderr)


def can_redraw(console: Console) -> bool:
    """Whether what was printed can be drawn over: on a terminal, whatever FORCE_COLOR says of a file."""
    return console.is_interactive and console.file.isatty()


def spinner(console: Console) -> SpinnerColumn:
    """What moves while something is done, in characters that the console has."""
    if console.options.ascii_only:
        return SpinnerColumn("line", finished_text="[green]+")
    return SpinnerColumn(finished_text="[green]✓")


def note_column() -> TextColumn:
    """What a display says of a task, in as many lines as it needs beside what stands before it."""
    return TextColumn("{task.fields[note]}", table_column=Column(overflow="fold"))


def print_line(console: Console, line: str) -> None:
    """Prints a line as it is, however wide."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_text(console: Console, text: str) -> None:
    """Prints a text, on a terminal folded between its words."""
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def new_table(*columns: Column | str, title: str | None = None) -> Table:
    """A table with these columns and no rows."""
    return Table(
        *columns, title=title, title_justify="left", box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False
    )


def unfolded(*headings: str, justify: JustifyMethod = "left") -> Iterator[Column]:
    """Columns that never give way: ids, statuses, numbers. Any other is folded where there is little room."""
    return (Column(heading, justify=justify, no_wrap=True) for heading in headings)


def text(heading: str, least: int = LEAST_OF_TEXT) -> Column:
    """A column that is cut where there is little room, but not to less than that."""
    return Column(heading, overflow="ellipsis", min_width=least)


def print_table(console: Console, table: Table) -> None:
    """Prints a table on any console as `table_layout` says. A file is as wide as the table needs it to be."""
    if console.options.ascii_only:  # spelled out first, or the columns are as wide as what is not printed
        for column in table.columns:
            column._cells = [_encodable(cell, console.encoding) for cell in column.cells]
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, width_in_file(console, table))
    for lines in laid_out(console, table):
        console.print(lines, highlight=False)


def _encodable(cell: RenderableType, encoding: str) -> RenderableType:
    if isinstance(cell, str):
        return cell.encode(encoding, _SPELLED_OUT).decode(encoding)
    if isinstance(cell, Text):
        text = cell.plain.encode(encoding, _SPELLED_OUT).decode(encoding)
        return Text(text, cell.style, no_wrap=cell.no_wrap, overflow=cell.overflow)
    return cell


def _spelled_out(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler: backslash escapes, but plain dots for the ellipsis of a text that was cut short."""
    if isinstance(error, UnicodeEncodeError) and error.object[error.start : error.end].strip("…") == "":
        return "." * (error.end - error.start), error.end
    return codecs.backslashreplace_errors(error)


codecs.register_error(_SPELLED_OUT, _spelled_out)


class _Output(io.TextIOWrapper):
    """Prints anything, and remembers why it could not be written."""

    lost: OSError | None = None

    def write(self, text: str) -> int:
        with self._remembering():
            return super().write(text)

    def flush(self) -> None:
        with self._remembering():
            super().flush()

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            raise


def printed(command: Callable[[], int]) -> int:
    """The command's exit status, or what is due where its output could not be written.

    A reader that has gone (`| head`) is met as by other programs: without a word, with the status of SIGPIPE.
    """
    with _outputs():
        status, failure = 0, None
        try:
            status = command()
        except (OSError, SystemExit) as error:
            failure = error
        lost, unheard = _why_lost(sys.stdout), _why_lost(sys.stderr)
        if isinstance(failure, OSError):
            lost = lost or unheard
        if lost is None:
            if failure is not None:
                raise failure
            return status
        if isinstance(lost, BrokenPipeError):
            return status or _SIGPIPE_STATUS
        print(f"crystools-tpu: the output could not be written: {lost.strerror}", file=sys.stderr)
        return status or 1


@contextlib.contextmanager
def _outputs() -> Iterator[None]:
    """Within the block standard output and standard error are such files; those of a process stay so."""
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    # Any other is closed, or somebody's own.
    before = {name: stream for name, stream in streams.items() if type(stream) is io.TextIOWrapper}
    within = {}
    for name, stream in before.items():
        stream.flush()
        errors = _SPELLED_OUT if stream.errors in ("strict", "backslashreplace") else stream.errors
        within[name] = _Output(
            stream.buffer,
            stream.encoding,
            errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, within[name])
    try:
        yield
    finally:
        for name, stream in before.items():
            _why_lost(within[name])
            if stream not in (sys.__stdout__, sys.__stderr__):  # the log writes there until the process ends
                setattr(sys, name, stream)
                within[name].detach()


def _why_lost(stream: TextIO | None) -> OSError | None:
    """Why what was printed cannot be written, if so. The interpreter would find out at its end, loudly."""
    if not isinstance(stream, _Output):
        return None
    with contextlib.suppress(OSError):
        stream.flush()
    if stream.lost is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return stream.lost
