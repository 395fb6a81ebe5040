"""Videos on disk, read back by ffprobe and by ffmpeg itself."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from crystools_pipelines.errors import RequestError
from crystools_pipelines.runtime.video import check_video, video_writer, write_video

needs_ffprobe = pytest.mark.skipif(
    shutil.which("ffprobe") is None, reason="ffprobe is not installed (Debian: apt-get install ffmpeg)"
)


def gradient(frames: int, height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downwards, blue with time."""
    time, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (frames, height, width)), indexing="ij")
    return np.stack([x, y, time], axis=-1).astype(np.float32)


def probe(path: Path) -> Any:
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)["streams"]


def decode(path: Path, height: int, width: int) -> np.ndarray:
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        path,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    pixels = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)


@needs_ffprobe
@pytest.mark.parametrize(
    ("frames", "height", "width", "fps"), [(17, 128, 192, 16), (5, 120, 200, 24), (1, 34, 50, 8)]
)
def test_mp4_has_the_exact_size_frame_count_and_rate(
    tmp_path: Path, frames: int, height: int, width: int, fps: int
) -> None:
    write_video(gradient(frames, height, width), tmp_path / "video.mp4", fps)

    [stream] = probe(tmp_path / "video.mp4")  # one stream: no audio
    assert (stream["codec_name"], stream["pix_fmt"]) == ("h264", "yuv420p")
    assert (stream["width"], stream["height"]) == (width, height)
    assert int(stream["nb_read_frames"]) == frames
    assert stream["avg_frame_rate"] == f"{fps}/1"


def test_mp4_shows_the_frames_given(tmp_path: Path) -> None:
    frames = gradient(9, 64, 96)
    write_video(frames, tmp_path / "video.mp4", fps=16)
    error = np.abs(decode(tmp_path / "video.mp4", 64, 96) / 255 - frames)
    assert error.mean() < 0.01


def test_values_beyond_0_and_1_are_clipped(tmp_path: Path) -> None:
    frames = np.full((2, 32, 32, 3), 1.5, np.float32)
    frames[1] = -0.5
    write_video(frames, tmp_path / "video.mp4", fps=16)
    white, black = decode(tmp_path / "video.mp4", 32, 32)
    assert white.min() >= 254
    assert black.max() <= 1


def test_npy_holds_the_frames_themselves(tmp_path: Path) -> None:
    frames = gradient(3, 20, 30)
    write_video(frames, tmp_path / "frames.npy", fps=16)
    read = np.load(tmp_path / "frames.npy")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, frames)


def test_folders_are_made_and_a_file_that_exists_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "frames.NPY"
    write_video(gradient(1, 4, 4), path, fps=16)
    write_video(gradient(2, 4, 4), path, fps=16)
    assert len(np.load(path)) == 2
    assert [file.name for file in path.parent.iterdir()] == ["frames.NPY"]


@pytest.mark.parametrize(("name", "named"), [("video.avi", ".avi"), ("video", "no")])
def test_another_suffix_is_refused_with_what_works(tmp_path: Path, name: str, named: str) -> None:
    with pytest.raises(
        RequestError, match=rf"^out: cannot write {named} files; end the name in \.mp4 or \.npy or \.png$"
    ):
        video_writer(tmp_path / name)
    with pytest.raises(RequestError, match="cannot write"):
        write_video(gradient(1, 4, 4), tmp_path / name, fps=16)
    assert list(tmp_path.iterdir()) == []


def test_odd_sizes_are_refused_for_mp4(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"frames of 33x32 do not fit \.mp4"):
        write_video(gradient(2, 32, 33), tmp_path / "video.mp4", fps=16)
    assert list(tmp_path.iterdir()) == []


def test_nan_is_refused_not_painted_black(tmp_path: Path) -> None:
    frames = gradient(4, 32, 32)
    frames[2, 0, 0, 0] = np.nan
    with pytest.raises(RequestError, match="NaN"):
        write_video(frames, tmp_path / "video.mp4", fps=16)
    assert list(tmp_path.iterdir()) == []


def test_a_png_is_the_frame_to_the_byte(tmp_path: Path) -> None:
    frames = gradient(1, 33, 17)
    write_video(frames, tmp_path / "image.png", fps=1)
    with Image.open(tmp_path / "image.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (17, 33))
        np.testing.assert_array_equal(np.asarray(image), np.rint(frames[0] * 255))


def test_a_png_holds_one_frame_and_no_nan(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^out: 2 frames do not fit \.png, which holds one; use \.mp4"):
        write_video(gradient(2, 4, 4), tmp_path / "image.png", fps=1)
    with pytest.raises(RequestError, match=r"NaN or infinity do not fit \.png"):
        write_video(gradient(1, 4, 4) * np.nan, tmp_path / "image.png", fps=1)
    assert list(tmp_path.iterdir()) == []


class InterruptedFrames(np.ndarray):
    """Frames whose reader presses Ctrl-C at the third one."""

    def __iter__(self) -> Iterator[Any]:
        yield from np.asarray(self)[:2]
        raise KeyboardInterrupt


def test_ctrl_c_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"the old video")
    with pytest.raises(KeyboardInterrupt):
        write_video(gradient(8, 64, 64).view(InterruptedFrames), path, fps=16)
    assert path.read_bytes() == b"the old video"
    assert list(tmp_path.iterdir()) == [path]


def an_ffmpeg(folder: Path, does: str) -> str:
    """The path of a program that does this instead."""
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("cat > /dev/null", "ffmpeg wrote 0 of 4 frames"),
        ("cat > /dev/null; exit 1", "ffmpeg failed: exit status 1"),
        ("echo Unknown encoder libx264 >&2; exit 8", "ffmpeg failed: Unknown encoder libx264"),
        ("echo '[mp4 @ 0x55] No space left\n[mp4 @ 0x55] Again' >&2; exit 1", "ffmpeg failed: No space left"),
        ("head -c 100 > /dev/null; kill -9 $$", "ffmpeg failed: exit status -9"),
    ],
)
def test_an_ffmpeg_that_fails_is_an_error_before_and_after_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, reason: str
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", an_ffmpeg(tmp_path, does))
    out = tmp_path / "out"
    with pytest.raises(OSError, match=f"^{reason}$"):
        write_video(gradient(4, 32, 32), out / "video.mp4", fps=16)
    with pytest.raises(RequestError, match=f"cannot be written: {reason.replace('of 4', 'of 1')}$"):
        check_video(out / "video.mp4", 1, 32, 32, fps=16)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("program", ["/none/ffmpeg", "/etc/passwd", "/tmp"])
def test_an_ffmpeg_that_cannot_be_started_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
    remedy = "unset IMAGEIO_FFMPEG_EXE, or let it name one that works"
    with pytest.raises(RequestError, match=rf"ffmpeg \({program}\) cannot be started: .*; {remedy}$"):
        check_video(tmp_path / "video.mp4", 5, 32, 32, fps=16)


def test_without_an_ffmpeg_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(RequestError, match=r"there is no ffmpeg; pip install 'imageio\[ffmpeg\]'$"):
        check_video(tmp_path / "video.mp4", 5, 32, 32, fps=16)


@pytest.mark.parametrize(
    "name", ["12:30:05.mp4", "frame%03d.mp4", "-y.mp4", "a:b/pipe:1.mp4", "100%/%d.png", "http:/x.mp4"]
)
def test_names_that_ffmpeg_reads_otherwise_are_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_video(Path(name), 1, 32, 32, fps=16)
    write_video(gradient(1, 32, 32), Path(name), fps=16)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [name]


@pytest.mark.parametrize(
    ("name", "frames", "height", "why"),
    [
        ("v.npy", 10**9, 32, r"v\.npy: 11,718,750\.0 MiB are needed and .* MiB are free there; make room"),
        ("v.mp4", 5, 33, r"frames of 32x33 do not fit \.mp4, which needs even sizes; use \.npy"),
        ("v.mov", 5, 32, r"cannot write \.mov files"),
        ("v.png", 5, 32, r"5 frames do not fit \.png"),
        ("folder.mp4", 5, 32, r"folder\.mp4: is a folder; give the name of a file"),
        ("file/v.mp4", 5, 32, r"file/v\.mp4: its folder cannot be made: File exists"),
    ],
)
def test_what_cannot_be_written_is_said_before_there_is_anything(
    tmp_path: Path, name: str, frames: int, height: int, why: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=why):
        check_video(tmp_path / name, frames, height, 32, fps=16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mp4"]


@pytest.mark.parametrize("name", ["v.mp4", "v.npy", "i.png"])
def test_a_trial_leaves_what_is_there_and_nothing_else(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"old")
    check_video(tmp_path / name, 1, 64, 32, fps=16)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"old")]
