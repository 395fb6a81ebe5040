"""Reports as JSON lines, read one at a time and no further than a report can be long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunReport

MOST_BYTES: Final = 64 * 1024**2
"""The longest line that is read; a run of a million steps has fewer bytes."""


class BadLine(ValueError):
    """The message names the line and what is wrong with it."""


def reports_in(lines: IO[bytes]) -> Iterator[RunReport]:
    """The report of each line; empty ones are passed over. Raises BadLine for one that has none."""
    number = 0
    while line := _next(lines, number + 1):
        number += 1
        if len(line) > MOST_BYTES:
            raise BadLine(f"line {number}: longer than {MOST_BYTES // 1024**2} MiB, which no report is")
        if not line.strip():
            continue
        try:
            yield telemetry.report_from_json(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
        except ValueError as error:
            raise BadLine(f"line {number}: {error}") from None


def _next(lines: IO[bytes], number: int) -> bytes:
    try:
        return lines.readline(MOST_BYTES + 1)
    except OSError as error:
        raise BadLine(f"line {number} cannot be read: {error.strerror}") from None
