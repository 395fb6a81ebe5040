"""What one asks of Wan2.2 image-to-video, and what is wrong with it, said before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from crystools_pipelines.requests.checks import check_guidance, check_range
from crystools_pipelines.requests.fields import IMAGE, Role, number, setting
from crystools_pipelines.wan.request import WanRequest, shift_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BOUNDARY = "transformer_2 takes the timesteps below this share"


@dataclass(frozen=True, eq=False)
class Wan22I2VRequest(WanRequest):
    """One video that starts with `image`: a file, or floats `[height, width, 3]` in 0..1.

    The image is stretched to the video's size: a file by Lanczos, an array to the nearest pixel. A
    `boundary_ratio` of None is the checkpoint's, a `guidance_scale_2` of None the same as `guidance_scale`,
    which alone decides whether the negative branch runs.
    """

    model: ClassVar = "wan2.2-i2v"

    image: str | Path | NDArray[np.floating] = setting(  # noqa: RUF009 - it makes a field
        role=Role.CONTENT, help="what the video starts with", metavar="FILE", widget=IMAGE, kw_only=True
    )
    shift: float = shift_setting(5.0, 20.0, 0.1)
    guidance_scale_2: float | None = setting(
        None, role=Role.SCHEDULE, help="guidance_scale of transformer_2", check=check_guidance
    )
    boundary_ratio: float | None = setting(
        None,
        role=Role.SCHEDULE,
        help=_BOUNDARY,
        check=partial(check_range, low=0, high=1),
        widget=number(0.0, 1.0, 0.01, _BOUNDARY, default=0.9),
    )

    @classmethod
    def of_any_content(cls, **fields: Any) -> Self:
        """A request with these fields, which starts with black unless they say with what."""
        import numpy as np

        return super().of_any_content(**{"image": np.zeros((16, 16, 3), np.float32), **fields})
