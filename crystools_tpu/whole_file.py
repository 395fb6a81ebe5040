"""Files that are there whole or not at all, however the process that writes them ends.

A file is written under a hidden name beside its own. A process that is killed leaves that behind, and whoever
next writes into the folder takes it away: the living hold a lock on theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

_PREFIX: Final = ".crystools-tpu-"
_SUFFIX: Final = ".partial"

SMALL_BYTES: Final = 2**20
"""Room enough for a file whose size nobody knows before: without that much it is surely too little."""

# Locks hold among all processes of one kernel, which may be of several containers. Of a file that another
# machine writes, on a file system that both see, the time alone tells.
_ABANDONED_SECONDS: Final = 24 * 3600.0

_living: set[Path] = set()


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """An empty hidden file beside `path`, to be written by its name, that replaces `path` after the block.

    Where the block raises, or OSError comes of it, what was at `path` stays as it was.
    """
    with hidden_beside(path) as unfinished:
        yield unfinished
        unfinished.replace(path)


@contextlib.contextmanager
def hidden_beside(path: Path) -> Iterator[Path]:
    """An empty hidden file in the folder of `path` that is gone after the block. Raises OSError.

    What killed processes left in the folder goes, too.
    """
    descriptor, unfinished = _create(path.absolute().parent)
    try:
        _sweep(unfinished.parent, os.fstat(descriptor).st_mtime)
        yield unfinished
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone, and with it the file
            unfinished.unlink(missing_ok=True)
        _living.discard(unfinished)
        os.close(descriptor)


def discard_unfinished() -> None:
    """Takes away what this process is writing. For its end alone."""
    for unfinished in tuple(_living):
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def obstacle(path: Path, size_bytes: int = SMALL_BYTES) -> str | None:
    """Why a file of that size cannot be written to `path`, with the remedy; None where it can, as tried."""
    folder = path.absolute().parent
    try:
        if not folder.is_dir():
            return "its folder does not exist; create it first"
        if in_place := _in_place(path):
            return in_place
    except OSError as error:
        return f"{reason(error)}; give another name"
    try:
        with hidden_beside(path):
            pass
        free = _free_bytes(folder)
    except OSError as error:
        return f"its folder cannot be written to: {reason(error)}; give another one"
    if free is not None and free < size_bytes:
        return f"{_mib(size_bytes)} are needed and {_mib(free)} are free there; make room, or give another"
    return None


def reason(error: OSError) -> str:
    """What went wrong, without the name of a file that is not the user's."""
    return error.strerror or str(error)


def same_file(a: Path, b: Path) -> bool:
    """Whether both are one file, or would be: links, hard links and other ways to the folder included."""
    a, b = Path(os.path.realpath(a)), Path(os.path.realpath(b))
    try:
        return a.samefile(b)
    except OSError:  # not both are there
        pass
    try:
        return a.name == b.name and a.parent.samefile(b.parent)
    except OSError:
        return a == b


def _in_place(path: Path) -> str | None:
    """What is at `path` already and cannot be replaced. Raises OSError."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(there.st_mode):
        return "is a folder; give the name of a file"
    if not stat.S_ISREG(there.st_mode):
        return "is no plain file; give another name"
    if os.path.ismount(path):
        return "is mounted by itself, so it cannot be replaced; mount its folder, or give another name"
    folder, user = path.absolute().parent.stat(), os.geteuid()
    if folder.st_mode & stat.S_ISVTX and user not in (0, folder.st_uid, path.lstat().st_uid):
        return "is another user's, and its folder lets nobody else replace it; give another name"
    return None


def _free_bytes(folder: Path) -> int | None:
    """What this user may still write; None where the file system does not say."""
    about = os.statvfs(folder)
    if about.f_blocks == 0:
        return None
    return about.f_frsize * (about.f_bfree if os.geteuid() == 0 else about.f_bavail)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _create(folder: Path) -> tuple[int, Path]:
    while True:
        unfinished = folder / f"{_PREFIX}{_kernel()}-{uuid4().hex[:12]}{_SUFFIX}"
        _living.add(unfinished)
        try:
            descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except BaseException:
            _living.discard(unfinished)
            raise
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if unfinished.exists():
            return descriptor, unfinished
        _living.discard(unfinished)  # it was swept before it was locked
        os.close(descriptor)


def _sweep(folder: Path, now: float) -> None:
    """Takes away what the dead left; `now` is by the file system's own clock."""
    for leftover in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        if leftover not in _living:
            with contextlib.suppress(OSError):  # another user's, or somebody else has just swept it
                _sweep_one(leftover, now)


def _sweep_one(leftover: Path, now: float) -> None:
    descriptor = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        of_this_kernel = leftover.name.startswith(f"{_PREFIX}{_kernel()}-")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # it is being written
        except OSError:
            of_this_kernel = False
        if of_this_kernel or now - os.fstat(descriptor).st_mtime > _ABANDONED_SECONDS:
            leftover.unlink()
    finally:
        os.close(descriptor)


@functools.cache
def _kernel() -> str:
    """Which kernel runs, since when: what decides whether a lock can be seen."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return uuid4().hex[:8]  # one of its own: the time alone tells then
