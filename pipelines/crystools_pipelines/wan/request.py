"""What one asks of Wan, and what is wrong with it, said before anything is loaded."""

import math
from dataclasses import dataclass
from typing import ClassVar

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.checks import check_guidance, check_seed, check_size, check_steps
from crystools_pipelines.requests.size import Size

# The VAE halves height and width three times and time twice; the transformer's patches are 1x2x2 latents.
VAE_SPATIAL_RATIO = 8
VAE_TEMPORAL_RATIO = 4
SIZE_MULTIPLE = 2 * VAE_SPATIAL_RATIO
LATENT_CHANNELS = 16


@dataclass(frozen=True)
class WanRequest:
    """What every Wan model is asked. Sizes in pixels; the defaults are those of the published 720p models.

    A `guidance_scale` at or below 1 runs without the negative branch, as in diffusers.

    Raises RequestError naming the field that cannot be served, and what would.
    """

    model: ClassVar[str]

    prompt: str
    negative_prompt: str = ""
    height: int = 720
    width: int = 1280
    num_frames: int = 81
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_size(self.height, self.width, SIZE_MULTIPLE)
        if self.num_frames < 1 or self.num_frames % VAE_TEMPORAL_RATIO != 1:
            low = max(0, self.num_frames - 1) // VAE_TEMPORAL_RATIO * VAE_TEMPORAL_RATIO + 1
            raise RequestError(
                "num_frames", f"{self.num_frames} is not of the form 4n+1; {low} or {low + 4} would do"
            )
        check_steps(self.num_inference_steps)
        check_guidance("guidance_scale", self.guidance_scale)
        check_seed(self.seed)

    @property
    def branches(self) -> int:
        """How many guidance branches run: the prompt's, and the negative prompt's where it is guided."""
        return 2 if self.guidance_scale > 1 else 1

    @property
    def prompts(self) -> tuple[str, ...]:
        """Those of the guidance branches."""
        return (self.prompt, self.negative_prompt)[: self.branches]

    @property
    def size(self) -> Size:
        """What is made."""
        return Size(self.height, self.width, self.num_frames)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Batch, channels, frames, height, width of the latents."""
        frames = (self.num_frames - 1) // VAE_TEMPORAL_RATIO + 1
        return 1, LATENT_CHANNELS, frames, self.height // VAE_SPATIAL_RATIO, self.width // VAE_SPATIAL_RATIO


@dataclass(frozen=True)
class ExpertsRequest(WanRequest):
    """What a Wan model with two experts is asked. `shift` replaces the checkpoint's flow_shift.

    `transformer` takes the steps at or above `boundary_ratio` of the schedule's timesteps, `transformer_2`
    those below with `guidance_scale_2`; None is the checkpoint's ratio, and for the scale the same as
    `guidance_scale`, which alone decides whether the negative branch runs.
    """

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


def check_shift(field: str, shift: float) -> None:
    """Raises RequestError for a shift of the flow schedule that is none."""
    if not (math.isfinite(shift) and shift > 0):
        raise RequestError(field, f"{shift} is not a positive number; 3 to 5 is usual")
