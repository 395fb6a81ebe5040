"""The small picture of what a run made is small, and of its middle."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crystools_pipelines.runtime.video import write_video
from crystools_tpu import thumbnails
from crystools_tpu.thumbnails import thumbnail_of_file, thumbnail_of_frames

RED_THEN_GREEN_THEN_BLUE = np.repeat(np.eye(3, dtype=np.float32), 8, axis=0)[:, None, None, :] * np.ones(
    (24, 64, 96, 3), np.float32
)


def opened(body: bytes | None) -> Image.Image:
    assert body is not None
    return Image.open(io.BytesIO(body))


def is_green(picture: Image.Image) -> bool:
    red, green, blue = np.asarray(picture.convert("RGB"))[20, 20]
    return bool(green > 200 and red < 60 and blue < 60)


def test_of_frames_it_is_the_middle_one_and_they_may_go() -> None:
    frames = RED_THEN_GREEN_THEN_BLUE.copy()
    attachment = thumbnail_of_frames(frames)
    frames[:] = np.nan
    assert (attachment.kind, attachment.media_type) == ("thumbnail", "image/jpeg")
    picture = opened(attachment.make())
    assert (picture.format, picture.size) == ("JPEG", (96, 64))
    assert is_green(picture)


def test_however_large_the_frames_are_it_has_at_most_320_pixels_a_side_and_32_kib() -> None:
    noise = np.random.default_rng(0).random((1, 1080, 1920, 3), np.float32)
    noise[0, :10] = np.nan
    body = thumbnail_of_frames(noise).make()
    assert opened(body).size == (320, 180)
    assert body is not None
    assert len(body) <= 32 * 1024


def test_of_a_video_it_is_a_frame_of_its_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "_frame_of_video", thumbnails._frame_by_ffmpeg)  # whatever else is here
    write_video(RED_THEN_GREEN_THEN_BLUE, tmp_path / "a: video.mp4", 8)
    picture = opened(thumbnail_of_file(tmp_path / "a: video.mp4").make())
    assert picture.size == (96, 64)
    assert is_green(picture)


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.webp"])
def test_of_a_picture_it_is_that_one(tmp_path: Path, name: str) -> None:
    Image.new("RGBA" if name != "image.jpg" else "RGB", (1000, 500), (0, 255, 0)).save(tmp_path / name)
    picture = opened(thumbnail_of_file(tmp_path / name).make())
    assert picture.size == (320, 160)
    assert is_green(picture)
