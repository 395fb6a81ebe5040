"""What one asks of Wan, and what is wrong with it, said before anything is loaded."""

import math
from dataclasses import dataclass

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.checks import check_guidance, check_seed, check_size, check_steps

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
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Batch, channels, frames, height, width of the latents."""
        frames = (self.num_frames - 1) // VAE_TEMPORAL_RATIO + 1
        return 1, LATENT_CHANNELS, frames, self.height // VAE_SPATIAL_RATIO, self.width // VAE_SPATIAL_RATIO


@dataclass(frozen=True)
class Wan21Request(WanRequest):
    """One video from text. `flow_shift` replaces the checkpoint's own: 5 suits 720p, 3 suits 480p."""

    flow_shift: float = 5.0
    seed: int = 2025

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shift("flow_shift", self.flow_shift)


def check_shift(field: str, shift: float) -> None:
    """Raises RequestError for a shift of the flow schedule that is none."""
    if not (math.isfinite(shift) and shift > 0):
        raise RequestError(field, f"{shift} is not a positive number; 3 to 5 is usual")
