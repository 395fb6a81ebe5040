"""An open history is closed while its process forks, and opened again by whoever needs it next.

SQLite's locks are the process's that took them, while what it knows of them would be copied: a child that
opens the same file would believe that it holds them, or that somebody does for ever. See "carrying an open
database connection across a fork" at https://sqlite.org/howtocorrupt.html
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from typing import Final

from crystools_exporters.run_log_file import RunLogError, RunLogFile

# A fork waits no longer for a write than this.
_PATIENCE_SECONDS: Final = 1.0


class UnforkedFile:
    """The file that `open_file` opens. Raises what that raises, whenever it has to be opened."""

    def __init__(self, open_file: Callable[[], RunLogFile]) -> None:
        self.lock = threading.Lock()
        """To be held by whoever uses `database`."""
        self._open_file = open_file
        self._is_put_away = True
        _forks.know(self)
        with self.lock:  # it takes its time, and is no moment to fork either
            _forks.refuse_what_was_inherited()
            self.file = open_file()
            """As it was opened last."""
            self._is_put_away = False

    @property
    def database(self) -> sqlite3.Connection:
        """The connection."""
        if self._is_put_away:
            _forks.refuse_what_was_inherited()
            self.file = self._open_file()
            self._is_put_away = False
        return self.file.database

    def close(self) -> None:
        """Closes the file, for good."""
        _forks.forget(self)
        self.file.close()

    def put_away(self) -> bool:
        """Closes the file until it is needed, and holds the lock; not so where somebody holds it for long."""
        if not self.lock.acquire(timeout=_PATIENCE_SECONDS):
            return False
        if not self._is_put_away:
            self._is_put_away = True
            with contextlib.suppress(OSError):  # a copy that could not be removed
                self.file.close()
        return True


class _Forks:
    """The files that are open in this process, and what becomes of them when it forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: weakref.WeakSet[UnforkedFile] = weakref.WeakSet()
        self._put_away: list[UnforkedFile] = []
        self._in_use = False
        self._inherited = False

    def know(self, file: UnforkedFile) -> None:
        with self._lock:
            self._files.add(file)

    def forget(self, file: UnforkedFile) -> None:
        with self._lock:
            self._files.discard(file)

    def refuse_what_was_inherited(self) -> None:
        if self._inherited:
            raise RunLogError(
                "this process was forked while the run history was being written, and cannot open it: "
                "start such processes with multiprocessing's `spawn`"
            )

    def before(self) -> None:
        self._lock.acquire()
        files = list(self._files)
        self._put_away.extend(file for file in files if file.put_away())
        self._in_use = len(self._put_away) < len(files)

    def after(self) -> None:
        for file in self._put_away:
            file.lock.release()
        self._put_away = []
        self._lock.release()

    def after_in_child(self) -> None:
        self._inherited = self._inherited or self._in_use
        self.after()


_forks = _Forks()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(
        before=_forks.before, after_in_parent=_forks.after, after_in_child=_forks.after_in_child
    )
