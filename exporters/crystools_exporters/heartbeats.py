"""Whether the process that writes a run still does, by its heartbeat in the history.

A process that has a run in progress writes the seconds of its own monotonic clock every `BEAT_SECONDS`.
The time of day is not looked at, for it is set, and differs from machine to machine. A reader of the same
boot has the same monotonic clock, in whichever container, and knows at once how old a heartbeat is. Another
reader knows only whether it still changes: it notes when, by its own clock, it saw the value first, and the
note is kept for the next command there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Final

from crystools_exporters.processes import Process, look_up

BEAT_SECONDS: Final = 2.0
"""Between two heartbeats."""

SILENT_SECONDS: Final = 60.0
"""After so long without a heartbeat a process counts as gone: twice as long as its longest pause on a full or
locked disk."""

# What wrote no heartbeats wrote when something changed; that may take as long as a compile.
_SILENT_SECONDS_WITHOUT: Final = 86400.0


class Life(Enum):
    """What a reader can tell of the process that writes a run."""

    GOES_ON = "goes on"
    GONE = "gone"
    UNKNOWN = "unknown"
    """The process is of another boot, and seen for the first time, or not for long enough."""


class Observer:
    """What this process knows of others. `notes` has, by writer, its last heartbeat and when that was new."""

    def __init__(
        self,
        own: Process,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        looked_up: Callable[[Process, Process], bool | None] = look_up,
    ) -> None:
        self.own = own
        self.notes: dict[str, tuple[float, float]] = {}
        self._monotonic = monotonic
        self._looked_up = looked_up

    def now(self) -> float:
        """What a heartbeat of this process says."""
        return self._monotonic()

    def judge(self, writer: str, heartbeat: float | None, written_unix_seconds: float) -> Life:
        """Whether `writer` still runs. Without heartbeats only whether it writes at all tells."""
        process = Process.from_text(writer)
        if process == self.own:
            return Life.GOES_ON
        known = None if process is None else self._looked_up(process, self.own)
        if known is not None:
            return Life.GOES_ON if known else Life.GONE
        if heartbeat is None:
            return self._watch(writer, written_unix_seconds, _SILENT_SECONDS_WITHOUT)
        age = self._monotonic() - heartbeat
        if process is not None and process.clock and process.clock == self.own.clock and age >= 0:
            return Life.GONE if age > SILENT_SECONDS else Life.GOES_ON
        return self._watch(writer, heartbeat, SILENT_SECONDS)

    def _watch(self, writer: str, value: float, silent_seconds: float) -> Life:
        now = self._monotonic()
        seen = self.notes.get(writer)
        if seen is not None and seen[0] == value and seen[1] <= now:
            return Life.GONE if now - seen[1] > silent_seconds else Life.UNKNOWN
        self.notes[writer] = (value, now)
        return Life.UNKNOWN if seen is None else Life.GOES_ON
