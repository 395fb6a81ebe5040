"""That the runs of a process are kept without being asked for, from its first on, by one keeper alone."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from crystools_tpu.telemetry import doors
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)


class Keeper:
    """Exports a process's runs by default: into the user's history, and over OTLP where that is set up.

    It begins with the first run and ends with the process. While something else exports them (a command, a
    page, ComfyUI) it does nothing. What fails here is a warning, once, and reaches no run.
    """

    def __init__(self, open_default: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        self.left_out: Final[set[str]] = set()
        """The ids of the runs in progress that are not to be kept. Whoever keeps runs looks here."""
        self._open_default = open_default
        self._on = True
        self._inherited: list[contextlib.ExitStack | None] = []
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._own: contextlib.ExitStack | None = None
        self._others: set[object] = set()
        self._over = self._ends_with_the_process = False
        self._guard = Guard(logger)

    def switch(self, on: bool) -> None:
        """Whether runs that begin from now on are kept."""
        self._on = on

    def start(self) -> None:
        """Begins, where nobody exports this process's runs yet. The first time takes some milliseconds."""
        if self._own is not None or self._others or self._over:
            return
        with self._guard("the runs of this process are not kept"), self._lock:
            if self._own is None and not self._others and not self._over:
                self._own = contextlib.ExitStack()  # also where it fails: it would fail again
                self._own.enter_context(self._open_default())
                if not self._ends_with_the_process:
                    self._ends_with_the_process = True
                    _at_exit(self.end)

    def end(self) -> None:
        """Writes what is left, and keeps nothing from then on."""
        self._over = True
        self._end_own()

    @contextlib.contextmanager
    def replaced(self, in_progress: Callable[[], Sequence[object]]) -> Iterator[None]:
        """For as long as the block lasts, something else exports the runs; it begins before and ends after.

        Where a run is `in_progress` at its end, that one is kept on by default.
        """
        other = object()
        with self._lock:
            self._others.add(other)
        self._end_own()
        try:
            yield
        finally:
            with self._lock:
                self._others.discard(other)
            with self._guard("the runs in progress are not kept on"):
                if in_progress():
                    self.start()

    def run_begins(self, run_id: str) -> None:
        """Notes whether the run is to be kept, for as long as it lasts."""
        if not self._on:
            self.left_out.add(run_id)

    def run_ended(self, run_id: str) -> None:
        """The run has ended, and whoever keeps runs has been told."""
        self.left_out.discard(run_id)

    def begin_anew(self, of_the_parent: Iterable[str]) -> None:
        """In a process that was forked: what exported, and the runs that it exported, are the parent's."""
        self._inherited.append(self._own)  # to let go of it would end it
        self.left_out.update(of_the_parent)
        self._begin()

    def _end_own(self) -> None:
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            with self._guard("what keeps the runs of this process could not be ended"):
                own.close()


def _at_exit(end: Callable[[], None]) -> None:
    atexit.register(end)
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util.Finalize(None, end, exitpriority=0)  # a worker ends without Python's own end


keeper = Keeper(lambda: doors.exporting().exporting_by_default())


def keep_runs(on: bool) -> None:
    """Whether this process's runs are kept in the user's history; they are unless this says otherwise.

    It counts for the runs that begin from now on, whoever would keep them: one in progress stays as it began,
    and what is kept already stays. `CRYSTOOLS_TPU_HISTORY=off` in the environment does the same from outside.
    """
    keeper.switch(on)
