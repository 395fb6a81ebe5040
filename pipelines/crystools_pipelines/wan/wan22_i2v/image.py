"""The image that a video starts with, as diffusers' pipelines take it."""

import logging
import struct
from pathlib import Path

import numpy as np
from diffusers.video_processor import VideoProcessor
from numpy.typing import NDArray
from PIL import ExifTags, Image

from crystools_pipelines.errors import RequestError

logger = logging.getLogger(__name__)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation, what undoes it."""

_BITS_PER_SAMPLE = 258  # in TIFF


def read_image(image: str | Path | NDArray[np.floating], height: int, width: int) -> NDArray[np.float32]:
    """The image in -1..1, float32 `[1, 3, 1, height, width]`: a video of one frame.

    Read as diffusers' `load_image` does (upright, in RGB) and stretched as its pipelines do; but a grey
    picture of more than 8 bits, which that makes white, is scaled to 8. Raises RequestError for a file that
    is no image and for an array that is not floats `[height, width, 3]` in 0..1.
    """
    source = _check(image) if isinstance(image, np.ndarray) else _open(image)
    frame = VideoProcessor().preprocess(source, height=height, width=width)
    frames: NDArray[np.float32] = frame.unsqueeze(2).numpy()
    return frames


def _open(source: str | Path) -> Image.Image:
    try:
        path = Path(source)
        if path.exists() and not path.is_file():  # to open a pipe would be to wait for its writer
            raise RequestError("image", f"{path} is no file; give a picture file")
        with Image.open(path) as image:
            return _upright(image, path)
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise RequestError("image", f"{source} is too large ({error}); scale it down") from None
    except Exception as error:  # a decoder raises whatever a broken file leads it to
        said = str(error) or type(error).__name__
        raise RequestError("image", f"cannot read {source} ({said}); give a picture file") from error


def _upright(image: Image.Image, path: Path) -> Image.Image:
    # Not by ImageOps.exif_transpose: that writes the EXIF anew, and fails where any other tag is broken.
    image.load()
    image.info.pop("transparency", None)  # it is dropped, which for some palettes Pillow would warn of
    picture = _eight_bits(image, path).convert("RGB")
    try:
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error) as error:
        logger.warning("%s: its EXIF is broken (%s): the image is taken as it lies in the file", path, error)
        return picture
    return picture if turn is None else picture.transpose(turn)


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """A grey picture of more than 8 bits in 8, any other as it is: Pillow's own conversion cuts at 255."""
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
        return _scaled(image, 2**bits - 1)
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # which have no more than 16 bits
        return _scaled(image, 2**16 - 1)
    if image.mode == "F" and _lies_in_0_to_1(np.asarray(image)):
        return _scaled(image, 1)
    if image.mode in ("I", "F"):
        what = "whole numbers of 32 bits" if image.mode == "I" else "floats beyond 0..1"
        remedy = "save it with 8 or 16 bits a channel"
        raise RequestError("image", f"{path} has {what}, of which nobody says which is white; {remedy}")
    return image


def _scaled(image: Image.Image, white: int) -> Image.Image:
    grey = np.asarray(image).astype(np.float64) * (255 / white)
    return Image.fromarray(np.round(grey).clip(0, 255).astype(np.uint8))


def _check(image: NDArray[np.floating]) -> NDArray[np.float32]:
    fits = image.ndim == 3 and image.shape[-1] == 3 and image.size and np.issubdtype(image.dtype, np.floating)
    if not fits:
        raise RequestError(
            "image", f"{image.dtype} {list(image.shape)} is no image; give floats [height, width, 3] in 0..1"
        )
    if not _lies_in_0_to_1(image):
        raise RequestError("image", "some values are not in 0..1; scale the image")
    return image.astype(np.float32)


def _lies_in_0_to_1(values: NDArray[np.floating]) -> bool:
    """Whether all values are in 0..1, which NaN is not."""
    return bool(((values >= 0) & (values <= 1)).all())
