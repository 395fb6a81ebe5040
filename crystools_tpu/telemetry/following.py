"""The thread that follows what is executed, looking a few times a second.

It looks by itself and is neither woken nor waited for: to wake a thread, and even more to start one, makes a
thread that executes wait for the interpreter, for milliseconds on a busy machine.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import Final, Protocol

from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.2

_LINGER_SECONDS: Final = 10.0
"""The thread outlives what it follows for so long: the next thing need not start one."""


class Followed(Protocol):
    """What is followed until it has ended."""

    def look(self) -> bool:
        """Does what there is to do; whether all is done for good."""


class Follower:
    """Follows any number of things in one thread, which is there while there are any, and a little longer."""

    def __init__(self) -> None:
        self._ends_with_the_process = False
        self._guard = Guard(logger)
        self.begin_anew()

    def begin_anew(self) -> None:
        """In a process that was forked, which has no such thread."""
        self._lock = threading.Lock()
        self._followed: list[Followed] = []
        self._thread: threading.Thread | None = None

    def add(self, new: Followed) -> None:
        """Follows it from now on. Raises RuntimeError where no thread can be started."""
        with self._lock:
            if not self._ends_with_the_process:
                self._ends_with_the_process = True
                atexit.register(self.look)  # after what keeps runs, so before it
            if self._thread is None:
                thread = threading.Thread(target=self._follow, name="crystools-tpu-workflows", daemon=True)
                thread.start()
                self._thread = thread
            self._followed.append(new)

    def look(self) -> int:
        """Looks once at each; how many there still are."""
        with self._lock:
            followed = tuple(self._followed)
        over = [each for each in followed if self._is_over(each)]
        with self._lock:
            self._followed = [each for each in self._followed if each not in over]
            return len(self._followed)

    def _is_over(self, each: Followed) -> bool:
        with self._guard("what is executed could not be followed to its end"):
            return each.look()
        return True

    def _follow(self) -> None:
        idle_seconds = 0.0
        while True:
            time.sleep(LOOK_SECONDS)
            idle_seconds = 0.0 if self.look() else idle_seconds + LOOK_SECONDS
            with self._lock:
                if idle_seconds > _LINGER_SECONDS and not self._followed:
                    self._thread = None
                    return


follower: Final = Follower()

if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=follower.begin_anew)
