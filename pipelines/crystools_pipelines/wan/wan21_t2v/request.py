"""What one asks of Wan2.1 text-to-video, and what is wrong with it, said before anything is loaded."""

from dataclasses import dataclass
from typing import ClassVar

from crystools_pipelines.wan.request import WanRequest, check_shift


@dataclass(frozen=True)
class Wan21Request(WanRequest):
    """One video from text. `flow_shift` replaces the checkpoint's own: 5 suits 720p, 3 suits 480p."""

    model: ClassVar[str] = "wan2.1-t2v"

    flow_shift: float = 5.0
    seed: int = 2025

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shift("flow_shift", self.flow_shift)
