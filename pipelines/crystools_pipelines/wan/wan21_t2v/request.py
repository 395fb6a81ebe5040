"""The request to Wan2.1 text-to-video, checked before anything is loaded."""

from dataclasses import dataclass
from typing import ClassVar

from crystools_pipelines.requests.request import seed_setting
from crystools_pipelines.wan.request import WanRequest, shift_setting


@dataclass(frozen=True)
class Wan21Request(WanRequest):
    """One video from text."""

    model: ClassVar = "wan2.1-t2v"

    flow_shift: float = shift_setting(5.0, 10.0, 0.5)
    seed: int = seed_setting(2025)
