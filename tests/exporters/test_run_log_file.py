"""The file of the history on disks and in folders that are not what one hopes for."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crystools_exporters import run_log_file
from crystools_exporters.run_log import RunLog, RunLogError
from crystools_exporters.run_log_file import journal_mode, remedy

from .conftest import REPORT

ROOT = Path(__file__).parents[2]
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


def namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def odd_disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was read and said on real disks that are full or mounted read-only."""
    if not namespaces_work():
        pytest.skip("this system permits no mount namespace: full and read-only disks are NOT tested")
    path = os.pathsep.join(str(ROOT / part) for part in (".", "exporters"))
    program = Path(__file__).with_name("run_log_on_odd_disks.py")
    done = subprocess.run(
        [*UNSHARE, sys.executable, str(program), str(tmp_path_factory.mktemp("disks"))],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("case", ["read-only", "read-only, killed", "read-only, in use"])
def test_on_a_read_only_file_system_the_history_is_read(odd_disks: dict[str, Any], case: str) -> None:
    """Also what a killed process had committed and no other has taken over, and beside one that writes."""
    assert odd_disks[case]["read"] == [REPORT.run_id]
    assert odd_disks[case]["said"].endswith(
        "runs.db cannot be used: attempt to write a readonly database; its file system is mounted read-only: "
        "name another folder in CRYSTOOLS_TPU_DATA_DIR"
    )


def test_a_history_that_cannot_be_begun_on_a_read_only_file_system_is_one_line(
    odd_disks: dict[str, Any],
) -> None:
    assert odd_disks["read-only, nothing there"]["said"].endswith(
        "Read-only file system; its file system is mounted read-only: "
        "name another folder in CRYSTOOLS_TPU_DATA_DIR"
    )


def test_on_a_full_disk_the_history_is_read_and_written_once_there_is_room(odd_disks: dict[str, Any]) -> None:
    assert odd_disks["full"]["read"] == [REPORT.run_id]
    assert odd_disks["full"]["said"].endswith("; free some space on that disk")
    assert odd_disks["full"]["afterwards"]["said"] is None
    assert odd_disks["full, nothing there"]["said"].endswith("disk is full; free some space on that disk")


def without_shared_memory(folder: Path) -> None:
    """SQLite can make no memory to share there, as where the file system maps none."""
    folder.mkdir(exist_ok=True)
    (folder / "runs.db-shm").symlink_to("nowhere")  # which it does not follow


def journal(log: RunLog) -> str:
    with contextlib.closing(sqlite3.connect(log.path)) as database:
        (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    return str(mode)


def test_without_shared_memory_there_is_a_rollback_journal(tmp_path: Path) -> None:
    without_shared_memory(tmp_path / "data")
    with RunLog(tmp_path / "data") as log, RunLog(tmp_path / "data") as other:
        log.write([REPORT])
        assert other.page(10) == (REPORT,)
        assert (journal(log), log.read_only) == ("delete", False)
        other.delete([REPORT.run_id])
        assert log.page(10) == ()


def test_a_history_that_comes_to_where_there_is_no_shared_memory_is_written_on(tmp_path: Path) -> None:
    with RunLog(tmp_path / "data") as log:
        log.write([REPORT])
        assert journal(log) == "wal"
    without_shared_memory(tmp_path / "data")
    with RunLog(tmp_path / "data") as log:
        assert log.page(10) == (REPORT,)
        log.write([REPORT])
        assert (journal(log), log.read_only) == ("delete", False)


MOUNTS = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 {device} / /mnt/shared rw,relatime - {kind} server:/export rw,vers=4.2
"""


@pytest.mark.parametrize(
    ("kind", "journal"),
    [("nfs4", "DELETE"), ("cifs", "DELETE"), ("fuse.gcsfuse", "DELETE"), ("xfs", "WAL"), ("fuseblk", "WAL")],
)
def test_machines_that_share_a_folder_share_no_memory(tmp_path: Path, kind: str, journal: str) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(device=f"{os.major(device)}:{os.minor(device)}", kind=kind))
    assert journal_mode(tmp_path, mounts) == journal
    assert journal_mode(tmp_path, tmp_path / "missing") == "WAL"


def test_a_history_that_machines_share_has_a_rollback_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunLog(tmp_path) as before:
        before.write([REPORT])
        monkeypatch.setattr(run_log_file, "journal_mode", lambda _: "DELETE")
        monkeypatch.setattr(run_log_file, "_BUSY_SECONDS", 0.01)
        with RunLog(tmp_path) as log:
            assert (journal(log), log.page(10)) == ("wal", (REPORT,)), "somebody has it open"
            log.write([REPORT])
    with RunLog(tmp_path) as log:
        assert (journal(log), log.page(10)) == ("delete", (REPORT,))
    with RunLog(tmp_path / "new") as log:
        log.write([REPORT])
        assert journal(log) == "delete"


def sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("it failed")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "what_to_do"),
    [
        (sqlite_error("SQLITE_BUSY_SNAPSHOT"), "another process holds it: try again"),
        (sqlite_error("SQLITE_FULL"), "free some space on that disk"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space on that disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "free some space on that disk"),
        (OSError(errno.EROFS, "Read-only file system"), "its file system is mounted read-only: name another"),
        (OSError(errno.EACCES, "Permission denied"), "make the folder writable, or name another"),
        (OSError(errno.ENOTDIR, "Not a directory"), "make the folder writable, or name another"),
        (sqlite_error("SQLITE_CANTOPEN"), "make the folder writable, or name another"),
        (sqlite_error("SQLITE_READONLY_DBMOVED"), "make the folder writable, or name another"),
        (sqlite_error("SQLITE_NOTADB"), "move the file away, and a new one is begun"),
        (sqlite_error("SQLITE_CORRUPT_INDEX"), "move the file away, and a new one is begun"),
        (sqlite_error("SQLITE_IOERR_WRITE"), "its disk fails, a quota is used up, or its file system has no"),
        (sqlite_error("SQLITE_PROTOCOL"), "its disk fails, a quota is used up, or its file system has no"),
    ],
    ids=lambda value: str(getattr(value, "sqlite_errorname", value)),
)
def test_each_cause_has_its_own_remedy(tmp_path: Path, error: Exception, what_to_do: str) -> None:
    assert remedy(error, tmp_path / "runs.db").startswith(what_to_do)


READ_AND_WRITE = """
import sys
from pathlib import Path
from crystools_exporters.run_log import RunLog, RunLogError

with RunLog(Path(sys.argv[1])) as log:
    (report,) = log.page(10)
    try:
        log.write([report])
    except RunLogError as error:
        print(error)
"""


@pytest.mark.skipif(not namespaces_work(), reason="this system permits no user namespace")
@pytest.mark.parametrize("left", [False, True], ids=["closed", "killed"])
@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "what_to_do"),
    [
        (0o600, 0o500, "make the folder writable, or name another in CRYSTOOLS_TPU_DATA_DIR"),
        (
            0o400,
            0o500,
            "give the file to this user (chown), or name another folder in CRYSTOOLS_TPU_DATA_DIR",
        ),
        (
            0o400,
            0o700,
            "give the file to this user (chown), or name another folder in CRYSTOOLS_TPU_DATA_DIR",
        ),
    ],
)
def test_a_history_that_its_user_may_not_write_is_read(
    tmp_path: Path, left: bool, file_mode: int, folder_mode: int, what_to_do: str
) -> None:
    """In a user namespace root is a user like any other."""
    folder = tmp_path / "data"
    with RunLog(folder) as log:
        log.write([REPORT])
        content = (folder / "runs.db-wal").read_bytes()
    if left:
        (folder / "runs.db-wal").write_bytes(content)
    for file in folder.iterdir():
        file.chmod(file_mode)
    folder.chmod(folder_mode)
    path = os.pathsep.join(str(ROOT / part) for part in (".", "exporters"))
    done = subprocess.run(
        ["unshare", "--user", sys.executable, "-c", READ_AND_WRITE, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    folder.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"; {what_to_do}\n")


def test_a_part_of_a_history_is_said_to_be_broken(tmp_path: Path) -> None:
    """As a copy that was cut off is."""
    with RunLog(tmp_path) as log:
        log.write([REPORT])
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunLogError, match="move the file away, and a new one is begun"):
        RunLog(tmp_path)
