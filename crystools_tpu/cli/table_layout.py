"""How a table finds room on a terminal: some of its columns give way, and none of its figures ever does.

A column that may not be wrapped never gives way. One with a least width is cut down to that, any other is
folded. Where that is not enough the table is pressed together; then texts have a line of their own above or
below their row; then every cell has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

LEAST_OF_TEXT: Final = 12
_LONGEST_WORD: Final = 24  # that a column which may be folded is kept wide enough for
_WIDEST_IN_FILE: Final = 100


def laid_out(console: Console, table: Table) -> Iterator[RenderableType]:
    """What to print, one after the other. The table itself is changed."""
    if table.title:  # which may be wider than the table
        yield table.title if isinstance(table.title, Text) else Text(table.title, style="italic")
        table.title = None
    if _fits(console, table):
        yield table
        return
    _press(table)
    if _fits(console, table):
        yield table
        return
    kept = [_width(console, column) for column in table.columns if not _gives_way(column)]
    if _framed(table, kept) <= console.width and len(kept) > 1:
        yield from _texts_apart(console, table, kept)
    else:
        yield from _row_by_row(console, table)


def width_in_file(console: Console, table: Table) -> int:
    """What a table needs where nothing gives way but what is very long."""
    widths = [
        min(width, _WIDEST_IN_FILE) if _gives_way(column) else width
        for column in table.columns
        for width in [_width(console, column)]
    ]
    return _framed(table, widths)


def _gives_way(column: Column) -> bool:
    return _is_cut(column) or not column.no_wrap


def _is_cut(column: Column) -> bool:
    return column.min_width is not None


def _width(console: Console, column: Column) -> int:
    """That at which nothing of the column gives way."""
    return max(size.maximum for size in _sizes(console, column))


def _least_width(console: Console, column: Column) -> int:
    if not _gives_way(column):
        return _width(console, column)
    heading, *cells = _sizes(console, column)
    least = column.min_width or min(_LONGEST_WORD, max((cell.minimum for cell in cells), default=0))
    return min(_width(console, column), max(heading.minimum, least))


def _sizes(console: Console, column: Column) -> list[Measurement]:
    """Of the heading and of each cell."""
    options = console.options.update(width=100_000)
    return [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]


def _framed(table: Table, widths: Sequence[int]) -> int:
    """How wide a table with columns of these widths is: a blank on either side of each, and their padding."""
    columns, is_pressed = len(widths), table.padding[1] == 0
    return sum(widths) + (columns + 1 if is_pressed else 2 * columns)


def _fits(console: Console, table: Table) -> bool:
    """Whether all columns have room. If so each that gives way has its share of what there is."""
    least = [_least_width(console, column) for column in table.columns]
    if _framed(table, least) > console.width:
        return False
    widths = [_width(console, column) for column in table.columns]
    while _framed(table, widths) > console.width:
        widest = max(
            (number for number, width in enumerate(widths) if width > least[number]),
            key=lambda number: (_is_cut(table.columns[number]), widths[number]),  # to fold is the dearer
        )
        widths[widest] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        if _gives_way(column):
            column.width, column.no_wrap = width, _is_cut(column)
    return True


def _press(table: Table) -> None:
    table.padding = 0
    for column in table.columns:
        column.header = Text("\n".join(str(column.header).split()))


def _texts_apart(console: Console, table: Table, widths: Sequence[int]) -> Iterator[RenderableType]:
    """The table of what never gives way; a text that heads a row is above it, all others are below."""
    kept = [column for column in table.columns if not _gives_way(column)]
    first, *others = table.columns
    heads_rows = _gives_way(first)
    below = [column for column in (others if heads_rows else table.columns) if _gives_way(column)]

    def line(*, headings: bool) -> Table:
        figures = Table(box=box.HORIZONTALS, show_edge=False, show_header=headings, padding=0, pad_edge=False)
        for column, width in zip(kept, widths, strict=True):
            figures.add_column(column.header, justify=column.justify, width=width, no_wrap=True)
        return figures

    yield Padding(line(headings=True), (0, 0, 0, 1))
    for number, row in enumerate(table.rows):
        if heads_rows and (head := _cell(console, first, number)).plain:
            head.stylize("bold")
            yield Padding(head, (0, 0, 0, 1))
        figures = line(headings=False)
        figures.add_row(*(_cell(console, column, number) for column in kept), style=row.style)
        yield Padding(figures, (0, 0, 0, 1))
        if below:
            yield Padding(_together(console, below, number), (0, 0, 0, 3))


def _together(console: Console, columns: Sequence[Column], number: int) -> Text:
    """What is in these columns of a row, in one line; what may not be cut comes first."""
    ordered = sorted(columns, key=_is_cut)
    cells = [cell for column in ordered if (cell := _cell(console, column, number)).plain]
    joined = Text("  ").join(cells)
    joined.no_wrap, joined.overflow = any(map(_is_cut, columns)), "ellipsis"
    return joined


def _row_by_row(console: Console, table: Table) -> Iterator[RenderableType]:
    """Each row as a head and a line for each cell that says something, by its heading."""
    headings = [" ".join(str(column.header).split()) for column in table.columns]
    for number in range(table.row_count):
        head, *rest = (_cell(console, column, number) for column in table.columns)
        if head.plain:
            yield Text()
            yield _unwrapped(head)
        lines = Table.grid(padding=(0, 1))
        lines.add_column(no_wrap=True)
        lines.add_column(overflow="fold")
        for heading, cell in zip(headings[1:], map(_unwrapped, rest), strict=True):
            if cell.plain not in ("", "-"):
                lines.add_row(f"  {heading}", cell) if heading else lines.add_row(Text("  ") + cell)
        yield lines
    yield Text()


def _cell(console: Console, column: Column, number: int) -> Text:
    """What is in the row of that number, as its column has it."""
    cell = column._cells[number]
    made = cell.copy() if isinstance(cell, Text) else console.render_str(str(cell), highlight=False)
    made.no_wrap, made.overflow = (True, "ellipsis") if _is_cut(column) else (False, "fold")
    return made


def _unwrapped(text: Text) -> Text:
    text.no_wrap, text.overflow = False, "fold"
    return text
