"""Frames to a file: H.264 in MP4, PNG for a single one, or a plain numpy array."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import imageio_ffmpeg
import numpy as np
from PIL import Image

from crystools_pipelines.runtime.errors import RequestError


def write_video(frames: np.ndarray, path: Path, fps: int) -> None:
    """Write `frames`, float32 `[frames, height, width, 3]` in 0..1, at `fps` frames a second.

    The suffix decides: `.mp4` is H.264 (yuv420p, no audio), `.npy` the array itself and `.png` one frame,
    both without `fps`. The file appears whole or not at all; folders are made as needed. Raises RequestError
    for another suffix or for frames that the format cannot hold, OSError if the file cannot be written.
    """
    write = video_writer(path, len(frames))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}-{uuid4().hex[:8]}{path.suffix.lower()}")
    try:
        write(frames, unfinished, fps)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


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
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=8,
        macro_block_size=1,  # else the frames are scaled up to whole blocks
        ffmpeg_log_level="error",
    )
    with closing(writer):
        with _spawned_without_fork():
            writer.send(None)
        for frame in frames:
            writer.send(_bytes(frame, path.suffix))
    # The writer does not look at ffmpeg's exit status: a full disk would go unnoticed.
    written = imageio_ffmpeg.count_frames_and_secs(str(path))[0] if path.exists() else 0
    if written != count:
        raise OSError(f"ffmpeg wrote {written} of {count} frames to {path.parent}")


def _bytes(frame: np.ndarray, suffix: str) -> np.ndarray:
    if not np.isfinite(frame).all():
        raise RequestError(
            "out", f"frames with NaN or infinity do not fit {suffix}; use .npy to look at them"
        )
    return np.ascontiguousarray(np.rint(np.clip(frame, 0, 1) * 255), dtype=np.uint8)


@contextmanager
def _spawned_without_fork() -> Iterator[None]:
    """Within the block ffmpeg is started by vfork: a fork beside jax's threads can deadlock."""
    name = "IMAGEIO_FFMPEG_NO_PREVENT_SIGINT"  # it forks only to keep Ctrl-C from ffmpeg
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _write_npy(frames: np.ndarray, path: Path, fps: int) -> None:
    np.save(path, frames.astype(np.float32, copy=False))


def _write_png(frames: np.ndarray, path: Path, fps: int) -> None:
    Image.fromarray(_bytes(frames[0], path.suffix)).save(path)


_WRITERS = {".mp4": _write_mp4, ".npy": _write_npy, ".png": _write_png}
