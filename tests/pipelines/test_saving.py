"""Frames that cannot be saved where they were wanted are kept."""

from __future__ import annotations

import pickle
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from crystools_pipelines.errors import SaveError
from crystools_pipelines.runtime import saving
from crystools_pipelines.runtime.saving import save_or_keep
from crystools_tpu import whole_file

FRAMES = np.linspace(0, 1, 5 * 32 * 48 * 3, dtype=np.float32).reshape(5, 32, 48, 3)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, and that for temporary files beside it."""
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "data"


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """As on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def failed(out: Path) -> SaveError:
    with pytest.raises(SaveError) as error:
        save_or_keep(FRAMES, out, 16, "run1")
    return error.value


def test_frames_that_are_saved_are_kept_nowhere_else(tmp_path: Path, data: Path) -> None:
    save_or_keep(FRAMES, tmp_path / "v.npy", 16, "run1")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), FRAMES)
    assert not data.exists()


def test_a_folder_that_became_a_file_leaves_them_in_the_data_folder(tmp_path: Path, data: Path) -> None:
    (tmp_path / "folder").touch()
    error = failed(tmp_path / "folder" / "v.mp4")
    assert error.kept == data / "frames" / "run1.npy"
    np.testing.assert_array_equal(np.load(error.kept), FRAMES)
    assert str(error) == (
        f"{tmp_path}/folder/v.mp4: the frames could not be written: File exists; they are kept in "
        f"{data}/frames/run1.npy: numpy.load reads them, and crystools_pipelines.runtime.video.write_video "
        "makes the file of them"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("name", ["v.mp4", "v.npy"])
def test_a_disk_without_room_leaves_what_was_there(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is full for the file alone."""
    keep = saving._keep

    def with_room(frames: np.ndarray, kept_name: str) -> tuple[Path | None, str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return keep(frames, kept_name)

    monkeypatch.setattr(saving, "_keep", with_room)
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"old")
    with files_of_at_most(1000):
        error = failed(out / name)
    assert error.kept is not None
    np.testing.assert_array_equal(np.load(error.kept), FRAMES)
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [(name, b"old")]


def test_an_ffmpeg_that_is_gone_meanwhile_leaves_them(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/none/ffmpeg")
    assert re.search(
        r"ffmpeg \(/none/ffmpeg\) cannot be started: .*; they are kept in", str(failed(tmp_path / "v.mp4"))
    )


def test_frames_with_nan_are_kept_to_be_looked_at(tmp_path: Path, data: Path) -> None:
    frames = FRAMES.copy()
    frames[2, 3] = np.nan
    with pytest.raises(SaveError, match=r"NaN or infinity do not fit \.mp4; .*; they are kept in") as error:
        save_or_keep(frames, tmp_path / "v.mp4", 16, "run1")
    assert error.value.kept is not None
    np.testing.assert_array_equal(np.load(error.value.kept), frames)


def test_where_the_data_folder_fails_too_they_are_with_the_temporary_files(
    tmp_path: Path, data: Path
) -> None:
    data.touch()
    error = failed(data / "v.mp4")
    assert error.kept == tmp_path / "tmp" / "run1.npy"
    np.testing.assert_array_equal(np.load(error.kept), FRAMES)


def test_where_all_fails_it_says_that_they_are_lost(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.touch()
    shutil.rmtree(tmp_path / "tmp")
    (tmp_path / "tmp").touch()
    error = failed(data / "v.mp4")
    assert error.kept is None
    assert str(error).endswith(
        "neither could they be kept elsewhere, so they are lost: Not a directory; File exists"
    )
    assert whole_file._living == set()
