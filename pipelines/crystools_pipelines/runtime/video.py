"""Frames to a file: H.264 in MP4, PNG for a single one, or a plain numpy array."""

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from crystools_pipelines.errors import RequestError
from crystools_tpu.whole_file import SMALL_BYTES, hidden_beside, obstacle, reason, written_whole

_NPY_HEADER_BYTES = 128


def write_video(frames: np.ndarray, path: Path, fps: int) -> None:
    """Write `frames`, float32 `[frames, height, width, 3]` in 0..1, at `fps` frames a second.

    The suffix decides: `.mp4` is H.264 (yuv420p, no audio), `.npy` the array itself and `.png` one frame,
    both without `fps`. The file appears whole or not at all; folders are made as needed. Raises RequestError
    for another suffix or for frames that the format cannot hold, OSError if the file cannot be written.
    """
    write = video_writer(path, len(frames))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as unfinished:
        write(frames, unfinished, fps)


def check_video(path: Path, frames: int, height: int, width: int, fps: int) -> None:
    """Raises RequestError where so many frames of this size could not be written, before any is made.

    The first is tried, in black, in a file that is hidden and goes: with it the folder, the size and ffmpeg.
    """
    write = video_writer(path, frames)
    is_npy = write is _write_npy
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError("out", f"{path}: its folder cannot be made: {reason(error)}") from None
    size_bytes = _NPY_HEADER_BYTES + frames * height * width * 3 * 4 if is_npy else SMALL_BYTES
    if (why := obstacle(path, size_bytes)) is not None:
        raise RequestError("out", f"{path}: {why}")
    try:
        with hidden_beside(path) as trial:
            write(np.zeros((1, height, width, 3), np.float32), trial, fps)
    except OSError as error:
        raise RequestError("out", f"{path} cannot be written: {reason(error)}") from None


def video_writer(path: Path, count: int = 1) -> Callable[[np.ndarray, Path, int], None]:
    """What writes `count` frames to a file of this suffix.

    Raises RequestError if nothing does, so ask before making frames.
    """
    suffix = path.suffix.lower()
    if suffix == ".png" and count != 1:
        raise RequestError("out", f"{count} frames do not fit .png, which holds one; use .mp4 or .npy")
    try:
        return _WRITERS[suffix]
    except KeyError:
        known = " or ".join(_WRITERS)
        raise RequestError(
            "out", f"cannot write {path.suffix or 'no'} files; end the name in {known}"
        ) from None


def _write_mp4(frames: np.ndarray, path: Path, fps: int) -> None:
    count, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise RequestError(
            "out", f"frames of {width}x{height} do not fit .mp4, which needs even sizes; use .npy"
        )
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    target = ["-an", "-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv420p", "-f", "mp4"]
    file = f"file:{path.absolute()}"  # else a colon in a folder's name would be taken for a protocol
    _run_ffmpeg([*source, *target, file], (_bytes(frame, ".mp4") for frame in frames))
    # ffmpeg does not always look at what the last of its writes came to: a full disk would go unnoticed.
    try:
        written = imageio_ffmpeg.count_frames_and_secs(file)[0]
    except RuntimeError:
        written = 0
    if written != count:
        raise OSError(f"ffmpeg wrote {written} of {count} frames")


def _run_ffmpeg(arguments: Sequence[str], frames: Iterable[np.ndarray]) -> None:
    """Feeds ffmpeg the frames. Raises OSError with its own words where it fails."""
    with open(os.memfd_create("ffmpeg"), "w+b") as stderr:  # noqa: PTH123 no file of a path
        process = _started_ffmpeg(["-y", "-v", "error", *arguments], stderr.fileno())
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # it has ended, and said why
                for frame in frames:
                    process.stdin.write(frame.data)
                process.stdin.close()
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
        if process.returncode != 0:
            stderr.seek(0)
            lines = stderr.read().decode(errors="replace").split("\n")
            cause = re.sub(r"^\[[^]]*\] ", "", lines[0].strip())  # which part of it says so
            raise OSError(f"ffmpeg failed: {cause or f'exit status {process.returncode}'}")


def _started_ffmpeg(arguments: Sequence[str], stderr: int) -> subprocess.Popen[bytes]:
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        # In a group of its own Ctrl-C reaches it through us alone. (`preexec_fn` would fork, which beside
        # jax's threads can deadlock.)
        return subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            process_group=0,
        )
    except RuntimeError:
        raise OSError("there is no ffmpeg; pip install 'imageio[ffmpeg]'") from None
    except OSError as error:
        raise OSError(
            f"ffmpeg ({program}) cannot be started: {error.strerror}; "
            "unset IMAGEIO_FFMPEG_EXE, or let it name one that works"
        ) from None


def _bytes(frame: np.ndarray, suffix: str) -> np.ndarray:
    if not np.isfinite(frame).all():
        raise RequestError(
            "out", f"frames with NaN or infinity do not fit {suffix}; use .npy to look at them"
        )
    return np.ascontiguousarray(np.rint(np.clip(frame, 0, 1) * 255), dtype=np.uint8)


def _write_npy(frames: np.ndarray, path: Path, fps: int) -> None:
    with path.open("wb") as file:  # numpy adds a suffix to a name
        np.save(file, frames.astype(np.float32, copy=False))


def _write_png(frames: np.ndarray, path: Path, fps: int) -> None:
    Image.fromarray(_bytes(frames[0], ".png")).save(path, format="PNG")


_WRITERS = {".mp4": _write_mp4, ".npy": _write_npy, ".png": _write_png}
