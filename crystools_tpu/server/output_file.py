"""The file that a run made, where it may be shown: the run's own, as it left it, and of a kind that is shown.

Which file that is, its report alone says; no client names a path.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crystools_tpu.telemetry import RunReport, Status

_CLOCKS_DIFFER_SECONDS: Final = 2.0
"""A file system's clock, which may be that of another machine, and the run's."""

_JUST_AFTER_SECONDS: Final = 60.0

_HEAD_BYTES: Final = 16


def _starts(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(beginnings)


_KINDS: Final[Mapping[str, tuple[str, Callable[[bytes], bool]]]] = {
    ".mp4": ("video/mp4", lambda head: head[4:8] == b"ftyp"),
    ".webm": ("video/webm", _starts(b"\x1a\x45\xdf\xa3")),
    ".png": ("image/png", _starts(b"\x89PNG\r\n\x1a\n")),
    ".jpg": ("image/jpeg", _starts(b"\xff\xd8\xff")),
    ".jpeg": ("image/jpeg", _starts(b"\xff\xd8\xff")),
    ".webp": ("image/webp", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP"),
    ".gif": ("image/gif", _starts(b"GIF87a", b"GIF89a")),
}
"""By the end of the name: what it is, and whether the file begins so."""


class NotShownError(Exception):
    """Why a run's output cannot be shown, as a sentence."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that may be shown."""

    path: Path
    media_type: str


def output_file(
    report: RunReport, *, was_made_here: Callable[[RunReport], bool], now: Callable[[], float] = time.time
) -> OutputFile:
    """The run's output. Raises NotShownError."""
    if not report.output:
        raise NotShownError("The run has no output.")
    path = Path(report.output)
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise NotShownError(f"Only {', '.join(_KINDS)} are shown here.")
    if not was_made_here(report) or not path.is_absolute():
        raise NotShownError("It was made on another machine, or the run was imported.")
    media_type, begins_so = kind
    head, changed_unix_seconds = _looked_at(path)
    if not begins_so(head):
        raise NotShownError("It is not what its name says.")
    if not _began(report) <= changed_unix_seconds <= _ended(report, now):
        raise NotShownError("The file there is not the run's: it was written at another time.")
    if any(os.path.lexists(f"{path}{end}") for end in (".gz", ".br")):
        raise NotShownError("There is a compressed file of the same name, which would be sent in its place.")
    return OutputFile(path, media_type)


def _looked_at(path: Path) -> tuple[bytes, float]:
    """How the file begins, and when it was changed last."""
    try:
        # Neither a link to another place, nor a pipe that nobody writes.
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise NotShownError("The file is no longer there.") from None
    except (OSError, ValueError):  # a name that no file can have
        raise NotShownError("The file cannot be read.") from None
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise NotShownError("It is no file.")
        return os.read(file, _HEAD_BYTES), about.st_mtime
    finally:
        os.close(file)


def _began(report: RunReport) -> float:
    return report.started_unix_seconds - _CLOCKS_DIFFER_SECONDS


def _ended(report: RunReport, now: Callable[[], float]) -> float:
    """Until when what was written was the run's; before it began where that is not known."""
    if report.status is Status.RUNNING:
        return now() + _CLOCKS_DIFFER_SECONDS
    if report.total_seconds is None:
        return float("-inf")
    return report.started_unix_seconds + report.total_seconds + _JUST_AFTER_SECONDS
