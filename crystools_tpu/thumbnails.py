"""A small picture of what a run made, as the history keeps it: a JPEG of at most 320 pixels a side.

What it takes (numpy, Pillow, something that decodes videos) is there where frames or files are, and is
imported when a picture is made.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crystools_tpu.telemetry import Attachment

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS: Final = 320
MOST_BYTES: Final = 32 * 1024

_VIDEOS: Final = (".mp4", ".webm", ".mkv", ".mov")
_QUALITIES: Final = (75, 50, 25)
_DECODE_SECONDS: Final = 60.0


def thumbnail_of_frames(frames: Any) -> Attachment:
    """Of the middle one of `frames`, float `[frames, height, width, 3]` in 0..1.

    No more of it is copied here than a small picture takes: the frames may go.
    """
    middle = frames[len(frames) // 2]
    every = max(1, max(middle.shape[:2]) // (2 * MOST_PIXELS))
    return _thumbnail(partial(_picture_of_frame, middle[::every, ::every].copy()))


def thumbnail_of_file(path: Path) -> Attachment:
    """Of the picture in the file, or of a frame in the middle of the video."""
    return _thumbnail(partial(_frame_of_video if path.suffix.lower() in _VIDEOS else _picture_in, path))


def _thumbnail(picture: Callable[[], Image]) -> Attachment:
    return Attachment("thumbnail", "image/jpeg", lambda: _jpeg(picture()))


def _jpeg(picture: Image) -> bytes | None:
    """None where it cannot be made as small as that."""
    picture = picture.convert("RGB")
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    for quality in _QUALITIES:
        body = io.BytesIO()
        picture.save(body, format="JPEG", quality=quality, optimize=True)
        if body.tell() <= MOST_BYTES:
            return body.getvalue()
    return None


def _picture_of_frame(frame: Any) -> Image:
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.nan_to_num(frame).clip(0, 1) * 255).astype(np.uint8))


def _picture_in(path: Path) -> Image:
    from PIL import Image

    with Image.open(path) as picture:
        picture.draft("RGB", (MOST_PIXELS, MOST_PIXELS))  # of a large JPEG no more is decoded than it takes
        if (count := getattr(picture, "n_frames", 1)) > 1:
            picture.seek(count // 2)
        return picture.convert("RGB")


def _frame_of_video(path: Path) -> Image:
    """With what ComfyUI decodes videos with, or else with imageio's ffmpeg."""
    try:
        import av
    except ImportError:
        return _frame_by_ffmpeg(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if container.duration:
            container.seek(container.duration // 2)  # to the picture before it that stands by itself
        picture: Image = next(container.decode(stream)).to_image()
        return picture


def _frame_by_ffmpeg(path: Path) -> Image:
    import imageio_ffmpeg
    from PIL import Image

    file = f"file:{path.absolute()}"  # else a colon in a folder's name would be taken for a protocol
    _, seconds = imageio_ffmpeg.count_frames_and_secs(file)
    there = ["-v", "error", "-ss", f"{seconds / 2:.3f}", "-i", file]
    one_picture = ["-frames:v", "1", "-c:v", "png", "-f", "image2pipe", "-"]
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), *there, *one_picture],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=_DECODE_SECONDS,
    )
    with Image.open(io.BytesIO(done.stdout)) as picture:
        return picture.convert("RGB")
