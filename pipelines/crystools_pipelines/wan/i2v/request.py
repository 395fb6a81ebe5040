"""What one asks of Wan2.2 image-to-video, and what is wrong with it, said before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.checks import check_guidance
from crystools_pipelines.wan.request import WanRequest, check_shift

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Wan22I2VRequest(WanRequest):
    """One video that starts with `image`: a file, or floats `[height, width, 3]` in 0..1.

    The image is stretched to the video's size: a file by Lanczos, an array to the nearest pixel. `shift`
    replaces the checkpoint's flow_shift. `transformer` takes the steps at or above `boundary_ratio` of the
    schedule's timesteps, `transformer_2` those below with `guidance_scale_2`; None is the checkpoint's ratio,
    and for the scale the same as `guidance_scale`, which alone decides whether the negative branch runs.
    """

    image: str | Path | NDArray[np.floating] = field(kw_only=True)
    shift: float = 5.0
    guidance_scale_2: float | None = None
    boundary_ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shift("shift", self.shift)
        if self.guidance_scale_2 is not None:
            check_guidance("guidance_scale_2", self.guidance_scale_2)
        if self.boundary_ratio is not None and not 0 <= self.boundary_ratio <= 1:
            raise RequestError("boundary_ratio", f"{self.boundary_ratio} is out of range; give 0 to 1")
