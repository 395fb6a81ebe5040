"""A request or an image that cannot be served says which field is wrong and what would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import load_image
from diffusers.video_processor import VideoProcessor
from PIL import Image

from crystools_pipelines.runtime.errors import RequestError
from crystools_pipelines.wan22_i2v.image import read_image
from crystools_pipelines.wan22_i2v.request import Wan22I2VRequest

ORIENTATION, UPSIDE_DOWN = 0x0112, 3  # in EXIF


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("height", 100, "100 is not a positive multiple of 16; 96 would do"),
        ("num_frames", 80, "80 is not of the form 4n+1; 77 or 81 would do"),
        ("shift", 0.0, "0.0 is not a positive number; 3 to 5 is usual"),
        ("guidance_scale_2", -1.0, "-1.0 is negative or not finite; give 0 or more"),
        ("boundary_ratio", 1.1, "1.1 is out of range; give 0 to 1"),
        ("boundary_ratio", float("nan"), "nan is out of range; give 0 to 1"),
        ("seed", -1, "-1 is out of range; give 0 to 2**64 - 1"),
        ("seed", 2**64, "18446744073709551616 is out of range; give 0 to 2**64 - 1"),
    ],
)
def test_a_field_that_cannot_be_served_is_named_with_its_remedy(field: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError) as error:
        Wan22I2VRequest("a cat", image="cat.png", **{field: value})
    assert str(error.value) == f"{field}: {message}"


@pytest.mark.parametrize("size", [(64, 96), (30, 17), (33, 200)])
def test_a_file_becomes_what_diffusers_makes_of_it(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "image.png"
    exif = Image.Exif()
    exif[ORIENTATION] = UPSIDE_DOWN
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    expected = VideoProcessor(vae_scale_factor=8).preprocess(load_image(str(path)), height=64, width=96)
    np.testing.assert_array_equal(read_image(path, 64, 96), expected.unsqueeze(2))


def test_an_array_becomes_what_diffusers_makes_of_a_tensor() -> None:
    image = np.random.default_rng(0).random((30, 17, 3), np.float32)
    tensor = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
    expected = VideoProcessor(vae_scale_factor=8).preprocess(tensor, height=64, width=96)
    np.testing.assert_array_equal(read_image(image, 64, 96), expected.unsqueeze(2))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("no such file.png", r"cannot read no such file.png \(.*\); give a picture file"),
        (__file__, r"cannot read .* \(cannot identify image file .*\); give a picture file"),
        (np.zeros((4, 4), np.float32), r"float32 \[4, 4\] is no image; give floats \[height, width, 3\]"),
        (np.zeros((4, 4, 3), np.uint8), r"uint8 \[4, 4, 3\] is no image; give floats"),
        (np.full((4, 4, 3), 255.0), r"some values are not in 0..1; scale the image"),
        (np.full((4, 4, 3), np.nan), r"some values are not in 0..1; scale the image"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"^image: {message}"):
        read_image(image, 32, 32)
