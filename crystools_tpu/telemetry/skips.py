"""How often a step cache skips a step where the device decides, and what that makes of the steps to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from crystools_tpu.telemetry.events import CACHED, FULL

_LATEST: Final = 16


class Skips:
    """The skips of one stage so far. They go on as they went: as many after each full step as before.

    Full steps before the first skip are warm-up and say nothing of those to come, but for the one that it
    follows.
    """

    def __init__(self) -> None:
        self._after_full: deque[int] = deque(maxlen=_LATEST)
        self._since_full = 0
        self._began = False

    def add(self, kind: str) -> None:
        """Takes the stage's next step."""
        if kind == CACHED:
            self._began = True
            self._since_full += 1
        elif self._began:
            self._after_full.append(self._since_full)
            self._since_full = 0

    @property
    def are_counted(self) -> bool:
        """Whether it is known how many skips followed a full step: another full one ended them."""
        return bool(self._after_full)

    def to_come(self, steps: int) -> Mapping[str, int]:
        """So many steps to come, by kind; all full ones where none was skipped yet."""
        if not self._began:
            return {FULL: steps}
        count, skipped = len(self._after_full), sum(self._after_full)
        if self._since_full * count >= skipped:  # it skips for longer than before
            count, skipped = count + 1, skipped + self._since_full
        # A turn is a full step and the skips after it; of this one some may be to come. All times `count`.
        until_full = max(0, skipped - self._since_full * count)
        turns = max(0, steps * count - until_full)
        full = -(-turns // (count + skipped))
        return {FULL: full, CACHED: steps - full}
