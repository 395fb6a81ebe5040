"""The size of what is made."""

from typing import NamedTuple


class Size(NamedTuple):
    """Height and width in pixels; an image is one frame."""

    height: int
    width: int
    num_frames: int = 1
