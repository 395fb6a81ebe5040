"""The image that a video starts with, as diffusers' pipelines take it."""

from pathlib import Path

import numpy as np
from diffusers.video_processor import VideoProcessor
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crystools_pipelines.runtime.errors import RequestError


def read_image(image: str | Path | NDArray[np.floating], height: int, width: int) -> NDArray[np.float32]:
    """The image in -1..1, float32 `[1, 3, 1, height, width]`: a video of one frame.

    Read as diffusers' `load_image` does (upright, in RGB) and stretched as its pipelines do. Raises
    RequestError for a file that is no image and for an array that is not floats `[height, width, 3]` in 0..1.
    """
    source = _check(image) if isinstance(image, np.ndarray) else _open(Path(image))
    frame = VideoProcessor().preprocess(source, height=height, width=width)
    frames: NDArray[np.float32] = frame.unsqueeze(2).numpy()
    return frames


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise RequestError("image", f"cannot read {path} ({error}); give a picture file") from None


def _check(image: NDArray[np.floating]) -> NDArray[np.float32]:
    fits = image.ndim == 3 and image.shape[-1] == 3 and image.size and np.issubdtype(image.dtype, np.floating)
    if not fits:
        raise RequestError(
            "image", f"{image.dtype} {list(image.shape)} is no image; give floats [height, width, 3] in 0..1"
        )
    if not ((image >= 0) & (image <= 1)).all():
        raise RequestError("image", "some values are not in 0..1; scale the image")
    return image.astype(np.float32)
