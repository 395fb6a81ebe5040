"""The request to Wan2.2 text-to-video, checked before anything is loaded."""

from dataclasses import dataclass
from typing import ClassVar

from crystools_pipelines.requests.fields import number
from crystools_pipelines.requests.request import steps_setting
from crystools_pipelines.wan.request import (
    ExpertsRequest,
    boundary_setting,
    guidance_2_setting,
    shift_setting,
    wan_guidance_setting,
)


@dataclass(frozen=True)
class Wan22T2VRequest(ExpertsRequest):
    """One video from text. The defaults are its authors' own (`wan_t2v_A14B.py` in their repository)."""

    model: ClassVar = "wan2.2-t2v"

    num_inference_steps: int = steps_setting(40)
    guidance_scale: float = wan_guidance_setting(4.0)
    shift: float = shift_setting(12.0, 20.0, 0.1, "of the schedule: 12 is its authors'")
    guidance_scale_2: float | None = guidance_2_setting(
        3.0, number(0.0, 20.0, 0.1, "guidance_scale of transformer_2")
    )
    boundary_ratio: float | None = boundary_setting(0.875, 0.005)
