"""What one asks of Wan2.2 image-to-video, and what is wrong with it, said before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from crystools_pipelines.wan.request import ExpertsRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Wan22I2VRequest(ExpertsRequest):
    """One video that starts with `image`: a file, or floats `[height, width, 3]` in 0..1.

    The image is stretched to the video's size: a file by Lanczos, an array to the nearest pixel.
    """

    model: ClassVar[str] = "wan2.2-i2v"

    image: str | Path | NDArray[np.floating] = field(kw_only=True)
