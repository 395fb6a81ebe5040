"""A request or an image that cannot be served says which field is wrong and what would do."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import load_image
from diffusers.video_processor import VideoProcessor
from PIL import Image, TiffImagePlugin

from crystools_pipelines.errors import RequestError
from crystools_pipelines.wan.wan22_i2v.image import read_image
from crystools_pipelines.wan.wan22_i2v.nodes import stretch
from crystools_pipelines.wan.wan22_i2v.request import Wan22I2VRequest

ORIENTATION, UPSIDE_DOWN = 0x0112, 3  # in EXIF
X_RESOLUTION = 0x011A
BLACK, RED, BLUE = (0, 0, 0), (255, 0, 0), (0, 0, 255)


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
        (np.zeros((0, 4, 3)), r"float64 \[0, 4, 3\] is no image; give floats"),
        (None, r"cannot read None \(.*\); give a picture file"),
        ("a\0b.png", r"cannot read .* \(embedded null byte\); give a picture file"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"^image: {message}"):
        read_image(image, 32, 32)


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(RequestError, match=f"^image: {path} is no file; give a picture file$"):
            read_image(path, 32, 32)


def pixels_of(path: Path, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """The picture at its own size (height, width), row by row, in 0..255."""
    frame = read_image(path, *size)[0, :, 0]
    rows = np.round((frame + 1) * 127.5).astype(int).transpose(1, 2, 0).reshape(-1, 3)
    return [tuple(map(int, pixel)) for pixel in rows]


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_grey_of_16_bits_is_scaled_and_not_cut(tmp_path: Path, name: str) -> None:
    levels = np.repeat(np.array([[0, 257, 32896, 65535]], np.uint16), 8, axis=0).repeat(2, axis=1)
    Image.fromarray(levels).save(tmp_path / name)
    greys = [tuple([grey] * 3) for grey in (0, 0, 1, 1, 128, 128, 255, 255)]
    assert pixels_of(tmp_path / name, (8, 8)) == greys * 8


def test_grey_of_12_bits_is_white_at_4095(tmp_path: Path) -> None:
    packed = bytes([0xFF, 0xF0, 0x00] * 32)  # 4095, 0, ... in 12 bits each
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    about = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 8, 279: len(packed)}
    for tag, value in about.items():
        tags[tag] = value  # of which 273, where the pixels are, counts from the tags' end
    (tmp_path / "grey.tif").write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8) + packed)
    assert pixels_of(tmp_path / "grey.tif", (8, 8)) == [(255, 255, 255), BLACK] * 32


def test_grey_floats_are_taken_in_0_to_1(tmp_path: Path) -> None:
    levels = np.repeat(np.array([[0, 0.5, 0.75, 1]], np.float32), 8, axis=0).repeat(2, axis=1)
    Image.fromarray(levels).save(tmp_path / "grey.tif")
    greys = [tuple([grey] * 3) for grey in (0, 0, 128, 128, 191, 191, 255, 255)]
    assert pixels_of(tmp_path / "grey.tif", (8, 8)) == greys * 8


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.full((8, 8), 70_000, np.int32), "whole numbers of 32 bits"),
        (np.full((8, 8), 1.5, np.float32), r"floats beyond 0\.\.1"),
        (np.full((8, 8), np.nan, np.float32), r"floats beyond 0\.\.1"),
    ],
)
def test_a_picture_without_a_white_is_refused(tmp_path: Path, values: Any, what: str) -> None:
    Image.fromarray(values).save(tmp_path / "grey.tif")
    refused = f"^image: {tmp_path / 'grey.tif'} has {what}, of which nobody says which is white; save it with"
    with pytest.raises(RequestError, match=refused):
        read_image(tmp_path / "grey.tif", 8, 8)


def of_mode(mode: str) -> Image.Image:
    """Red on the left and blue on the right, 8 x 8; in grey black and white."""
    if mode == "P":
        palette = Image.new("P", (8, 8))
        palette.putpalette([*RED, *BLUE])
        palette.paste(1, (4, 0, 8, 8))
        return palette
    image = Image.new("RGB", (8, 8), RED)
    image.paste(BLUE, (4, 0, 8, 8))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("RGB", "a.bmp", {}),
        ("RGBA", "a.png", {}),
        ("P", "a.png", {"transparency": 0}),
        ("P", "a.png", {"transparency": bytes([0, 128])}),
        ("P", "a.gif", {"transparency": 1}),
        ("CMYK", "a.tif", {}),
        ("RGB", "a.webp", {"lossless": True}),
    ],
)
def test_every_kind_of_picture_has_its_colours(
    tmp_path: Path, mode: str, name: str, options: dict[str, Any]
) -> None:
    of_mode(mode).save(tmp_path / name, **options)
    assert pixels_of(tmp_path / name, (8, 8)) == ([RED] * 4 + [BLUE] * 4) * 8


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, name: str) -> None:
    later = [Image.new("RGB", (8, 8), BLUE), Image.new("RGB", (8, 8), "lime")]
    options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
    first = Image.new("RGB", (8, 8), RED)
    first.save(tmp_path / name, save_all=True, append_images=later, duration=100, **options)
    assert pixels_of(tmp_path / name, (8, 8)) == [RED] * 64


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_though_the_rest_of_its_exif_is_broken(tmp_path: Path, orientation: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (24, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION], exif[X_RESOLUTION] = orientation, 72.0
    Image.fromarray(pixels).save(tmp_path / "whole.png", exif=exif)
    expected = VideoProcessor(vae_scale_factor=8).preprocess(
        load_image(str(tmp_path / "whole.png")), height=24, width=40
    )
    # A rational number of four bytes of text: what cannot be written anew.
    broken = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")
    assert broken != exif.tobytes()
    Image.fromarray(pixels).save(tmp_path / "broken.png", exif=broken)
    for name in ("whole.png", "broken.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name, 24, 40), expected.unsqueeze(2))


@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0MM\0*", b"Exif\0\0II*\0\x08"])
def test_a_picture_whose_exif_cannot_be_read_is_taken_as_it_lies_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, exif: bytes
) -> None:
    of_mode("RGB").save(tmp_path / "a.png", exif=exif)
    assert pixels_of(tmp_path / "a.png", (8, 8)) == ([RED] * 4 + [BLUE] * 4) * 8
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'a.png'}: its EXIF is broken (")


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(
        RequestError, match=r"^image: .*a\.png is too large \(.*4096 pixels.*\); scale it down$"
    ):
        read_image(tmp_path / "a.png", 8, 8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tif", "a.webp", "a.bmp"])
@pytest.mark.parametrize("kept", [0, 10, 60, 200])
def test_a_truncated_picture_is_refused(tmp_path: Path, name: str, kept: int) -> None:
    whole = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(whole, Image.registered_extensions()[Path(name).suffix])
    (tmp_path / name).write_bytes(whole.getvalue()[:kept])
    with pytest.raises(RequestError, match=rf"^image: cannot read .*{name} \(.+\); give a picture file$"):
        read_image(tmp_path / name, 32, 32)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp"])
def test_a_picture_with_broken_bytes_is_read_or_refused_and_nothing_else(tmp_path: Path, name: str) -> None:
    whole = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(whole, Image.registered_extensions()[Path(name).suffix])
    chance = np.random.default_rng(4)
    for _ in range(30):
        broken = bytearray(whole.getvalue())
        for place in chance.integers(4, len(broken), 3):
            broken[place] = (0, 255, int(chance.integers(256)))[chance.integers(3)]
        (tmp_path / name).write_bytes(broken)
        with contextlib.suppress(RequestError):
            read_image(tmp_path / name, 16, 16)


def test_an_unreadable_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").touch()
    monkeypatch.setattr(Image, "open", locked)
    with pytest.raises(
        RequestError, match=r"^image: cannot read .*Permission denied\); give a picture file$"
    ):
        read_image(tmp_path / "a.png", 32, 32)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(2, 8, 8, 3), "there are 2 of them; give one"),
        (torch.zeros(8, 8, 3), r"torch.float32 \[8, 8, 3\] is no IMAGE; give floats \[1, height, width, 3\]"),
        (torch.zeros(1, 8, 8, 2), r"torch.float32 \[1, 8, 8, 2\] is no IMAGE"),
        (torch.zeros(0, 8, 8, 3), r"torch.float32 \[0, 8, 8, 3\] is no IMAGE"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), r"torch.uint8 \[1, 8, 8, 3\] is no IMAGE"),
        (torch.full((1, 8, 8, 3), float("nan")), "some values are NaN or infinite; look at the node"),
        (torch.full((1, 8, 8, 3), float("inf")), "some values are NaN or infinite; look at the node"),
    ],
)
def test_a_comfyui_image_that_is_none_is_refused(image: torch.Tensor, message: str) -> None:
    with pytest.raises(RequestError, match=f"^image: {message}"):
        stretch(image, 16, 16)


def test_a_comfyui_image_may_be_grey_have_alpha_or_be_of_half_precision() -> None:
    rgb = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(1))
    expected = stretch(rgb, 16, 16)
    np.testing.assert_array_equal(stretch(torch.cat([rgb, rgb[..., :1]], dim=-1), 16, 16), expected)
    grey = rgb[..., :1].bfloat16()
    np.testing.assert_array_equal(stretch(grey, 16, 16), stretch(grey.float().expand(-1, -1, -1, 3), 16, 16))
    np.testing.assert_array_equal(stretch(rgb * 3 - 1, 16, 16).max(), np.float32(1))
