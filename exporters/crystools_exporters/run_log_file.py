"""The SQLite file of the history: how it is opened wherever it can be read, and what to do about errors.

The journal is SQLite's write-ahead log: readers never wait for writers. It needs memory that processes share
by a file, which some file systems have not, and which machines do not share by any: there, and on what is
mounted from a network, the journal is a rollback journal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

FILE_NAME: Final = "runs.db"

# How long to wait for another process's commit, which takes milliseconds, before the file counts as locked.
_BUSY_SECONDS: Final = 2.0

_NETWORK: Final = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "gpfs", "beegfs", "afs", "virtiofs"),
    *("fuse.sshfs", "fuse.gcsfuse", "fuse.s3fs", "fuse.juicefs", "fuse.rclone", "fuse.glusterfs"),
    *("fuse.ceph-fuse", "fuse.goofys", "fuse.blobfuse2"),
)

_ANOTHER: Final = "name another folder in CRYSTOOLS_TPU_DATA_DIR"

# These say that the file itself is wrong, or that somebody holds it: another way to open it would not help.
_OF_THE_FILE: Final = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_BUSY", "SQLITE_LOCKED")

# How a write-ahead log fails where processes cannot share memory.
_NO_SHARED_MEMORY: Final = (
    "SQLITE_IOERR_SHMMAP",
    "SQLITE_IOERR_SHMOPEN",
    "SQLITE_IOERR_SHMLOCK",
    "SQLITE_PROTOCOL",
    "SQLITE_CANTOPEN",
)

# What SQLite keeps beside the file of commits that are not in it yet, or that have to come out again.
_BESIDE: Final = ("-wal", "-journal")

_LEAST_ROOM_BYTES: Final = 64 * 1024  # below it SQLite cannot even make the memory that it shares

Begin: TypeAlias = Callable[[sqlite3.Connection], None]


@dataclass(frozen=True, slots=True)
class RunLogFile:
    """An open history, and whether it could be opened for reading alone. `copy` has the copy that is read."""

    database: sqlite3.Connection
    read_only: bool = False
    copy: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Closes the file."""
        self.database.close()
        if self.copy is not None:
            self.copy.cleanup()


def open_file(path: Path, begin: Begin) -> RunLogFile:
    """Opens the file, made where it is missing, and has `begin` check or lay out what is in it.

    Where it cannot be written it is opened for reading. Raises sqlite3.Error or OSError where it cannot be
    read either, and what `begin` raises.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # prompts are nobody else's business
    try:
        return RunLogFile(_open_for_writing(path, begin))
    except sqlite3.Error as error:
        if error_name(error).startswith(_OF_THE_FILE) or path.stat().st_size == 0:
            raise
        return _open_for_reading(path, begin, error)


def journal_mode(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """What suits the file system of the folder, as far as its kind tells."""
    try:
        lines = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
        device = folder.stat().st_dev
    except OSError:
        return "WAL"
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = {fields[fields.index("-") + 1] for fields in lines if fields[2] == number and "-" in fields}
    return "DELETE" if kinds.intersection(_NETWORK) else "WAL"


def error_name(error: Exception) -> str:
    """SQLite's own, such as SQLITE_FULL; empty for what is none of its errors."""
    return str(getattr(error, "sqlite_errorname", ""))


def remedy(error: Exception, path: Path) -> str:
    """What to do about it."""
    name = error_name(error)
    number = getattr(error, "errno", None)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "another process holds it: try again"
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return "move the file away, and a new one is begun"
    if name == "SQLITE_FULL" or number in (errno.ENOSPC, errno.EDQUOT):
        return "free some space on that disk"
    if number == errno.EROFS or _is_read_only(path.parent):
        return f"its file system is mounted read-only: {_ANOTHER}"
    if number is None and _is_full(path.parent):
        return "free some space on that disk"
    if name.startswith("SQLITE_IOERR") or name == "SQLITE_PROTOCOL":
        return f"its disk fails, a quota is used up, or its file system has no locks: {_ANOTHER}"
    if os.access(path, os.F_OK) and not os.access(path, os.R_OK | os.W_OK):
        return f"give the file to this user (chown), or {_ANOTHER}"
    return "make the folder writable, or name another in CRYSTOOLS_TPU_DATA_DIR"


def _open_for_writing(path: Path, begin: Begin) -> sqlite3.Connection:
    if journal_mode(path.parent) == "DELETE" and _has_log(path):
        with contextlib.suppress(sqlite3.OperationalError):  # another process has it open: next time
            _roll_back(path)
    try:
        return _begun(_connect(path), path, begin)
    except sqlite3.OperationalError as error:
        if not error_name(error).startswith(_NO_SHARED_MEMORY):
            raise
        try:
            if _has_log(path):  # else another process has just done the same
                _roll_back(path)
        except sqlite3.OperationalError:
            raise error from None
    return _begun(_connect(path), path, begin)


def _connect(path: Path, options: str = "") -> sqlite3.Connection:
    database = sqlite3.connect(
        path.absolute().as_uri() + options,
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    database.text_factory = lambda raw: raw.decode(errors="replace")  # a broken row is no reason to fail
    return database


def _begun(database: sqlite3.Connection, path: Path, begin: Begin) -> sqlite3.Connection:
    """Closes it where that fails."""
    try:
        # A power cut may cost the last commits, never the file; a killed process costs none.
        database.execute("PRAGMA synchronous = NORMAL")
        if path.stat().st_size == 0 and journal_mode(path.parent) == "WAL" and _shares_memory(path.parent):
            database.executescript("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;")
        begin(database)
    except BaseException:
        database.close()
        raise
    return database


def _shares_memory(folder: Path) -> bool:
    """Tried with another database there, for one that has begun a log shows it to all others."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".runs-", dir=folder) as trial,
            contextlib.closing(_connect(Path(trial) / FILE_NAME)) as database,
        ):
            database.executescript("PRAGMA journal_mode = WAL; BEGIN IMMEDIATE; COMMIT;")
    except sqlite3.OperationalError as error:
        return not error_name(error).startswith(_NO_SHARED_MEMORY)
    return True


def _has_log(path: Path) -> bool:
    """Whether its journal is a write-ahead log, as its header says, and one that can be taken away."""
    with path.open("rb") as file:
        header = file.read(20)
    return header[18:19] == b"\x02" and os.access(path.parent, os.W_OK)


def _roll_back(path: Path) -> None:
    """Changes to a rollback journal; exclusively, for then a write-ahead log needs no shared memory."""
    with contextlib.closing(_connect(path)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        database.execute("PRAGMA journal_mode = DELETE").fetchall()


def _open_for_reading(path: Path, begin: Begin, refused: sqlite3.Error) -> RunLogFile:
    """Without what SQLite would make beside the file.

    Commits that a killed process left there are read in a copy, for SQLite reads them nowhere else.
    """
    beside = [path.with_name(path.name + suffix) for suffix in _BESIDE]
    copy: tempfile.TemporaryDirectory[str] | None = None
    try:
        left = [file for file in beside if file.exists() and file.stat().st_size]
        if left:
            copy = tempfile.TemporaryDirectory(prefix="crystools-tpu-")
            for file in (path, *left):
                shutil.copyfile(file, Path(copy.name) / file.name)
            database = _connect(Path(copy.name) / path.name)
        else:
            database = _connect(path, "?mode=ro&immutable=1")
        opened = RunLogFile(database, read_only=True, copy=copy)
        try:
            database.execute("PRAGMA query_only = ON")
            begin(database)
        except BaseException:
            opened.close()
            raise
    except (sqlite3.Error, OSError):
        if copy is not None:
            copy.cleanup()
        raise refused from None
    return opened


def _is_full(folder: Path) -> bool:
    try:
        disk = os.statvfs(folder)
    except (OSError, AttributeError):  # Windows has no such call
        return False
    room = disk.f_bavail * disk.f_frsize
    return disk.f_blocks > 0 and (room < _LEAST_ROOM_BYTES or disk.f_favail == 0 < disk.f_files)


def _is_read_only(folder: Path) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except (OSError, AttributeError):
        return False
