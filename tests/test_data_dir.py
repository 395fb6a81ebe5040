"""Where a user's data and what can be made again is kept, whatever is known of the user."""

from __future__ import annotations

import getpass
import logging
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from crystools_tpu import data_dir as module
from crystools_tpu.cli.main import main
from crystools_tpu.data_dir import cache_dir, data_dir


def test_the_specifications_folders_in_the_home() -> None:
    environ = {"HOME": "/home/u"}
    assert data_dir(environ) == Path("/home/u/.local/share/crystools-tpu")
    assert cache_dir(environ) == Path("/home/u/.cache/crystools-tpu")


def test_the_environment_moves_them() -> None:
    environ = {"HOME": "/home/u", "XDG_DATA_HOME": "/data", "XDG_CACHE_HOME": "/scratch/cache"}
    assert data_dir(environ) == Path("/data/crystools-tpu")
    assert cache_dir(environ) == Path("/scratch/cache/crystools-tpu")
    assert data_dir({**environ, "CRYSTOOLS_TPU_DATA_DIR": "runs"}) == Path("runs")


@pytest.mark.parametrize("base", ["", "cache", "./x", "~/x"])
def test_a_base_that_is_not_absolute_is_ignored(base: str) -> None:
    environ = {"HOME": "/home/u", "XDG_DATA_HOME": base, "XDG_CACHE_HOME": base}
    assert data_dir(environ) == Path("/home/u/.local/share/crystools-tpu")
    assert cache_dir(environ) == Path("/home/u/.cache/crystools-tpu")


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}])
def test_without_the_variable_the_home_is_the_one_in_the_list_of_users(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=f"/home/number-{uid}"))
    assert cache_dir(environ) == Path(f"/home/number-{os.getuid()}/.cache/crystools-tpu")


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user without a home, a name and an entry in the list of users; the folder for temporary files."""

    def unknown(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    variables = ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "CRYSTOOLS_TPU_DATA_DIR")
    for name in (*variables, "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever becomes of it
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    module._without_home.cache_clear()
    yield tmp_path
    module._without_home.cache_clear()


def test_a_user_without_a_home_has_a_folder_to_himself_and_is_told_once(
    nobody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = nobody / f"crystools-tpu-{os.getuid()}"
    assert data_dir({}) == folder / ".local/share/crystools-tpu"
    assert cache_dir({}) == folder / ".cache/crystools-tpu"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert caplog.messages == [
        f"this user has no home: what is kept goes to {folder}; "
        "set HOME, or CRYSTOOLS_TPU_DATA_DIR, to a folder that lasts"
    ]
    module._without_home.cache_clear()  # the next process finds it again
    assert data_dir({}) == folder / ".local/share/crystools-tpu"


@pytest.mark.parametrize("kind", ["open to others", "another's", "a link", "a file"])
def test_a_folder_that_others_can_write_is_not_used(
    nobody: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = nobody / f"crystools-tpu-{os.getuid()}"
    if kind == "open to others":
        folder.mkdir()
        folder.chmod(0o770)
    elif kind == "another's":
        folder.mkdir(mode=0o700)
        os.chown(folder, os.getuid() + 1, -1) if os.getuid() == 0 else pytest.skip(
            "only root can give it away"
        )
    elif kind == "a link":
        (nobody / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(nobody / "elsewhere")
    else:
        folder.touch()
    used = cache_dir({}).parent.parent
    if kind == "a file":
        assert used == folder  # which cannot be written, as every user of it then says
        return
    assert used != folder
    assert used.parent == nobody
    assert stat.S_IMODE(used.stat().st_mode) == 0o700
    assert cache_dir({}).parent.parent == used


def test_commands_work_without_a_home_and_a_name(
    nobody: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    assert main(["runs", "list"]) == 0
    assert f"no such runs in {nobody}/crystools-tpu-{os.getuid()}/" in capsys.readouterr().err
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    # What libraries ask for as they are imported, and would else put into a folder `~` of the current one.
    assert getpass.getuser() == f"uid{os.getuid()}"
    assert Path("~").expanduser() == nobody / f"crystools-tpu-{os.getuid()}"
