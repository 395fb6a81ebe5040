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
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILE_NAME: Final = "runs.db"

_LAYOUT: Final = 1  # PRAGMA user_version

# `silence` has when an observer, which is a clock, saw a heartbeat of another clock first. The trigger is for
# versions that know of no attachments and delete a run.
_TABLES: Final = """
PRAGMA auto_vacuum = INCREMENTAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS run (
    run_id TEXT PRIMARY KEY,
    started_unix_seconds REAL NOT NULL,
    pipeline TEXT NOT NULL,
    status TEXT NOT NULL,
    written_unix_seconds REAL NOT NULL,
    writer TEXT NOT NULL,
    report TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS run_newest_first ON run (started_unix_seconds DESC, run_id DESC);
CREATE INDEX IF NOT EXISTS run_running ON run (status) WHERE status = 'running';
CREATE TABLE IF NOT EXISTS heartbeat (
    writer TEXT PRIMARY KEY,
    monotonic_seconds REAL NOT NULL,
    unix_seconds REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS silence (
    writer TEXT NOT NULL,
    observer TEXT NOT NULL,
    heartbeat REAL NOT NULL,
    since_seconds REAL NOT NULL,
    PRIMARY KEY (writer, observer)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attachment (
    run_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    media_type TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (run_id, kind)
);
CREATE TRIGGER IF NOT EXISTS attachment_goes_with_its_run AFTER DELETE ON run BEGIN
    DELETE FROM attachment WHERE run_id = OLD.run_id;
END;
PRAGMA user_version = 1;
COMMIT;
"""

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


class RunLogError(Exception):
    """The history cannot be read or written. The message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class RunLogFile:
    """An open history, and whether it could be opened for reading alone. `copy` has the copy that is read.

    One that an earlier version wrote, and that cannot be written, has no heartbeats, or no attachments.
    """

    database: sqlite3.Connection
    tables: frozenset[str]
    read_only: bool = False
    copy: tempfile.TemporaryDirectory[str] | None = None

    @property
    def has_heartbeats(self) -> bool:
        """Whether it tells which processes go on."""
        return {"heartbeat", "silence"} <= self.tables

    @property
    def has_attachments(self) -> bool:
        """Whether something may be kept with a run."""
        return "attachment" in self.tables

    def close(self) -> None:
        """Closes the file."""
        self.database.close()
        if self.copy is not None:
            self.copy.cleanup()


def open_file(path: Path) -> RunLogFile:
    """Opens the file, made where it is missing, and makes the tables that it lacks.

    Where it cannot be written it is opened for reading. Raises sqlite3.Error or OSError where it cannot be
    read either, RunLogError for one that is no history that this version knows.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # prompts are nobody else's business
    try:
        return _open_for_writing(path)
    except sqlite3.Error as error:
        if error_name(error).startswith(_OF_THE_FILE) or path.stat().st_size == 0:
            raise
        return _open_for_reading(path, error)


def journal_mode(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """`WAL`, or `DELETE` where the folder's file system is one of a network, as far as its kind tells."""
    try:
        lines = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
        device = folder.stat().st_dev
    except OSError:
        return "WAL"
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = {fields[fields.index("-") + 1] for fields in lines if fields[2] == number and "-" in fields}
    return "DELETE" if kinds.intersection(_NETWORK) else "WAL"


def stamp(path: Path, *, read_only: bool) -> tuple[object, ...]:
    """What tells the file from another in its place, and what is read as it was from what it has become."""
    stamps: list[object] = []
    for part in (path, *(path.with_name(path.name + suffix) for suffix in _BESIDE if read_only)):
        with contextlib.suppress(OSError):
            is_now = part.stat()
            stamps.append((part.name, is_now.st_dev, is_now.st_ino))
            stamps += [is_now.st_size, is_now.st_mtime_ns] if read_only else []
    return tuple(stamps)


def error_name(error: Exception) -> str:
    """SQLite's own, such as SQLITE_FULL; empty for what is none of its errors."""
    return str(getattr(error, "sqlite_errorname", ""))


def remedy(error: Exception, path: Path) -> str:
    """What to do about an error of the history, as the end of a sentence."""
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


def _open_for_writing(path: Path) -> RunLogFile:
    if journal_mode(path.parent) == "DELETE" and _has_log(path):
        with contextlib.suppress(sqlite3.OperationalError):  # another process has it open: next time
            _roll_back(path)
    try:
        return _begun(path)
    except sqlite3.OperationalError as error:
        if not error_name(error).startswith(_NO_SHARED_MEMORY):
            raise
        try:
            if _has_log(path):  # else another process has just done the same
                _roll_back(path)
        except sqlite3.OperationalError:
            raise error from None
    return _begun(path)


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


def _begun(path: Path) -> RunLogFile:
    database = _connect(path)
    try:
        # A power cut may cost the last commits, never the file; a killed process costs none.
        database.execute("PRAGMA synchronous = NORMAL")
        if path.stat().st_size == 0 and journal_mode(path.parent) == "WAL" and _shares_memory(path.parent):
            _begin_log(database)
        return RunLogFile(database, _lay_out(database, path))
    except BaseException:
        database.close()
        raise


def _begin_log(database: sqlite3.Connection) -> None:
    """While another process does the same SQLite waits for nobody."""
    give_up_at = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            database.executescript("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;")
        except sqlite3.OperationalError as error:
            if error_name(error) != "SQLITE_BUSY" or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
        else:
            return


def _lay_out(database: sqlite3.Connection, path: Path) -> frozenset[str]:
    """Makes the tables that a history lacks; those that it has then."""
    tables = _tables(database)
    (layout,) = database.execute("PRAGMA user_version").fetchone()
    if layout not in (0, _LAYOUT):
        raise RunLogError(
            f"the run history {path} has layout {layout}, of another version of crystools-tpu: "
            "upgrade, or name another folder in CRYSTOOLS_TPU_DATA_DIR"
        )
    if layout == 0 and tables:
        raise RunLogError(
            f"{path} is a database, but no run history: move the file away, and a new one is begun"
        )
    if {"heartbeat", "silence", "attachment"} <= tables:
        return tables
    try:
        database.executescript(_TABLES)
    except sqlite3.OperationalError as error:
        if layout == 0 or not error_name(error).startswith("SQLITE_READONLY"):
            raise
        database.rollback()
    return _tables(database)


def _tables(database: sqlite3.Connection) -> frozenset[str]:
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return frozenset(str(name) for (name,) in names)


def _shares_memory(folder: Path) -> bool:
    """Tried with another database there, for one that has begun a log shows it to all others."""
    # Python removes a TemporaryDirectory as the process is about to end, and then a short run is written.
    trial = Path(tempfile.mkdtemp(prefix=".runs-", dir=folder))
    try:
        with contextlib.closing(_connect(trial / FILE_NAME)) as database:
            database.executescript("PRAGMA journal_mode = WAL; BEGIN IMMEDIATE; COMMIT;")
    except sqlite3.OperationalError as error:
        return not error_name(error).startswith(_NO_SHARED_MEMORY)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
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


def _open_for_reading(path: Path, refused: sqlite3.Error) -> RunLogFile:
    """Opens the file without what SQLite would make beside it.

    Commits that a killed process left there are read in a copy, for SQLite reads them nowhere else.
    """
    beside = [path.with_name(path.name + suffix) for suffix in _BESIDE]
    with contextlib.ExitStack() as failed:
        try:
            copy: tempfile.TemporaryDirectory[str] | None = None
            left = [file for file in beside if file.exists() and file.stat().st_size]
            if left:
                copy = tempfile.TemporaryDirectory(prefix="crystools-tpu-")
                failed.callback(copy.cleanup)
                for file in (path, *left):
                    shutil.copyfile(file, Path(copy.name) / file.name)
            database = (
                _connect(Path(copy.name) / path.name) if copy else _connect(path, "?mode=ro&immutable=1")
            )
            failed.callback(database.close)
            database.execute("PRAGMA query_only = ON")
            opened = RunLogFile(database, _lay_out(database, path), read_only=True, copy=copy)
        except (sqlite3.Error, OSError):
            raise refused from None
        failed.pop_all()
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
