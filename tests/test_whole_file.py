"""Files that are whole or not there; what the killed leave; where a file can be; which are the same."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystools_tpu import whole_file
from crystools_tpu.whole_file import hidden_beside, obstacle, same_file, written_whole

DAY_SECONDS = 24 * 3600


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_file_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with written_whole(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt
    assert path.read_text() == "old"
    with written_whole(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_it_has_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with written_whole(tmp_path / "v.npy"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "v.npy").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["x" * 250, "100%d.mp4", "-y.png", "12:30:05.mp4", "ü\udcff.npy"])
def test_any_name_that_a_file_can_have_will_do(tmp_path: Path, name: str) -> None:
    with written_whole(tmp_path / name) as unfinished:
        unfinished.write_text("it")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_goes_meanwhile_is_the_error_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with pytest.raises(FileNotFoundError):
        with written_whole(folder / "v.npy") as unfinished:
            unfinished.unlink()
            folder.rmdir()


def killed_while_writing(folder: Path) -> Path:
    """What a process leaves that gets SIGKILL in the middle of a file."""
    code = (
        "import sys, pathlib, crystools_tpu.whole_file as w\n"
        "with w.written_whole(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write_text('half'); print(file, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "of another name.mp4")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(whole_file.__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().rstrip("\n"))
        with written_whole(folder / "first.npy"):
            pass
        assert left.read_text() == "half"  # it lives: nobody takes its file away
        process.send_signal(signal.SIGKILL)
    return left


def test_what_a_killed_process_leaves_is_taken_away_by_the_next_writer_of_any_file(tmp_path: Path) -> None:
    left = killed_while_writing(tmp_path)
    assert hidden(tmp_path) == [left]
    with written_whole(tmp_path / "second.prom"):
        pass
    assert hidden(tmp_path) == []


def test_two_writers_of_one_process_leave_each_other_alone(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a.json") as a, written_whole(tmp_path / "a.json") as b:
        a.write_text("a")
        b.write_text("b")
    assert (tmp_path / "a.json").read_text() == "a"  # the last to end


@pytest.mark.parametrize(
    ("name", "age_seconds", "goes"),
    [
        (".crystools-tpu-00000000-abc.partial", 2 * DAY_SECONDS, True),
        (".crystools-tpu-00000000-abc.partial", 3600, False),  # another machine may be writing it
        (".video-abc.mp4", 2 * DAY_SECONDS, False),  # not surely ours
        ("run.prom.12.34", 2 * DAY_SECONDS, False),
    ],
)
def test_what_no_lock_tells_of_goes_by_its_age_and_what_is_not_surely_ours_stays(
    tmp_path: Path, name: str, age_seconds: int, goes: bool
) -> None:
    left = tmp_path / name
    left.touch()
    then = left.stat().st_mtime - age_seconds
    os.utime(left, (then, then))
    with hidden_beside(tmp_path / "next"):
        assert left.exists() is not goes


def test_without_locks_only_age_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems that have none."""

    def none(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    left = killed_while_writing(tmp_path)
    monkeypatch.setattr("fcntl.flock", none)
    with written_whole(tmp_path / "second.npy"):
        pass
    assert hidden(tmp_path) == [left]


def a_folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    return tmp_path / "videos"


def a_link_to_a_folder(tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(tmp_path)
    return tmp_path / "link"


def a_socket(tmp_path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    return tmp_path / "socket"


def in_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file" / "v.npy"


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (a_folder, "is a folder; give the name of a file"),
        (a_link_to_a_folder, "is a folder; give the name of a file"),
        (a_socket, "is no plain file; give another name"),
        (lambda tmp_path: Path("/dev/null"), "is no plain file; give another name"),
        (in_a_file, "its folder does not exist; create it first"),
        (lambda tmp_path: tmp_path / "none" / "v.npy", "its folder does not exist; create it first"),
        (lambda tmp_path: tmp_path / ("x" * 256), "File name too long; give another name"),
    ],
)
def test_what_stands_in_the_way_is_said(tmp_path: Path, place: object, why: str) -> None:
    assert callable(place)
    assert obstacle(place(tmp_path)) == why


def test_a_folder_that_takes_no_file_is_found_by_trying() -> None:
    """For root, too, whom no permission stops."""
    why = obstacle(Path("/sys/v.npy"))
    assert why is not None
    assert why.startswith("its folder cannot be written to: ")


def test_a_disk_without_the_room_is_found(tmp_path: Path) -> None:
    why = obstacle(tmp_path / "v.npy", 2**60)
    assert why is not None
    assert why.startswith("1,099,511,627,776.0 MiB are needed and ")
    assert obstacle(tmp_path / "v.npy", 4096) is None
    assert list(tmp_path.iterdir()) == []


def test_another_users_file_in_a_folder_like_tmp_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "video.mp4"
    path.touch()
    tmp_path.chmod(0o1777)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1000)
    why = obstacle(path)
    assert why == "is another user's, and its folder lets nobody else replace it; give another name"


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_one_file_by_several_names(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "way").symlink_to(folder)
    (tmp_path / "to-be").symlink_to(folder / "v.mp4")
    (folder / "a").touch()
    (folder / "b").hardlink_to(folder / "a")
    with inside(tmp_path):
        for a, b in (
            ("folder/v.mp4", "./folder/../folder/v.mp4"),
            ("folder/v.mp4", "way/v.mp4"),
            ("folder/v.mp4", "to-be"),
            ("folder/v.mp4", str(folder / "v.mp4")),
            ("folder/a", "way/b"),
            ("none/v.mp4", "none/v.mp4"),
        ):
            assert same_file(Path(a), Path(b))
        for a, b in (("folder/v.mp4", "folder/w.mp4"), ("folder/v.mp4", "v.mp4"), ("folder/a", "folder/c")):
            assert not same_file(Path(a), Path(b))
