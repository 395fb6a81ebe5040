"""The request to Wan2.2 image-to-video, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from crystools_pipelines.requests.fields import IMAGE, Role, setting
from crystools_pipelines.wan.request import (
    ExpertsRequest,
    boundary_setting,
    guidance_2_setting,
    shift_setting,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Wan22I2VRequest(ExpertsRequest):
    """One video that starts with `image`: a file, or floats `[height, width, 3]` in 0..1.

    The image is stretched to the video's size: a file by Lanczos, an array to the nearest pixel.
    """

    model: ClassVar = "wan2.2-i2v"

    image: str | Path | NDArray[np.floating] = setting(  # noqa: RUF009 - it makes a field
        role=Role.CONTENT, help="what the video starts with", metavar="FILE", widget=IMAGE, kw_only=True
    )
    shift: float = shift_setting(5.0, 20.0, 0.1)
    guidance_scale_2: float | None = guidance_2_setting(None)
    boundary_ratio: float | None = boundary_setting(0.9, 0.01)

    @classmethod
    def of_any_content(cls, **fields: Any) -> Self:
        """A request with these fields, which starts with black unless they say with what."""
        import numpy as np

        return super().of_any_content(**{"image": np.zeros((16, 16, 3), np.float32), **fields})
