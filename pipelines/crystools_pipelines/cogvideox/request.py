"""What one asks of CogVideoX text-to-video, and what is wrong with it, said before anything is loaded."""

import math
from dataclasses import dataclass

from crystools_pipelines.runtime.errors import RequestError

# The VAE halves height and width three times and time twice; the transformer's patches are 2x2x2 latents.
VAE_SPATIAL_RATIO = 8
VAE_TEMPORAL_RATIO = 4
PATCH_SIZE = 2
SIZE_MULTIPLE = PATCH_SIZE * VAE_SPATIAL_RATIO
FRAMES_MULTIPLE = PATCH_SIZE * VAE_TEMPORAL_RATIO
LATENT_CHANNELS = 16
MAX_STEPS = 1000


@dataclass(frozen=True)
class CogVideoXRequest:
    """One video. Sizes in pixels; the defaults are those of CogVideoX1.5 5B.

    A `guidance_scale` at or below 1 runs without the negative branch, as in diffusers; `use_dynamic_cfg`
    makes it follow the steps. `num_frames` is 8n or 8n+1: other counts the VAE cannot make.

    Raises RequestError naming the field that cannot be served, and what would.
    """

    prompt: str
    negative_prompt: str = ""
    height: int = 720
    width: int = 1280
    num_frames: int = 81
    num_inference_steps: int = 50
    guidance_scale: float = 6.0
    use_dynamic_cfg: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        for field in ("height", "width"):
            size = getattr(self, field)
            if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
                low = max(SIZE_MULTIPLE, size // SIZE_MULTIPLE * SIZE_MULTIPLE)
                raise RequestError(
                    field, f"{size} is not a positive multiple of {SIZE_MULTIPLE}; {low} would do"
                )
        if self.num_frames < 1 or self.num_frames % FRAMES_MULTIPLE > 1:
            low = max(0, self.num_frames) // FRAMES_MULTIPLE * FRAMES_MULTIPLE + 1
            raise RequestError(
                "num_frames",
                f"{self.num_frames} is not of the form 8n or 8n+1; {low} or {low + FRAMES_MULTIPLE} would do",
            )
        if not 1 <= self.num_inference_steps <= MAX_STEPS:
            raise RequestError(
                "num_inference_steps", f"{self.num_inference_steps} is out of range; give 1 to {MAX_STEPS}"
            )
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise RequestError(
                "guidance_scale", f"{self.guidance_scale} is negative or not finite; give 0 or more"
            )
        if not 0 <= self.seed < 2**63:
            raise RequestError("seed", f"{self.seed} is out of range; give 0 to 2**63 - 1")

    @property
    def branches(self) -> int:
        """How many guidance branches run: the prompt's, and the negative prompt's where it is guided."""
        return 2 if self.guidance_scale > 1 else 1

    @property
    def latent_frames(self) -> int:
        """Latent frames that become video."""
        return (self.num_frames - 1) // VAE_TEMPORAL_RATIO + 1

    @property
    def padding_frames(self) -> int:
        """Latent frames in front of those, denoised to fill the first patch and then dropped."""
        return -self.latent_frames % PATCH_SIZE

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Batch, frames with their padding, channels, height, width of the latents that are denoised."""
        height, width = self.height // VAE_SPATIAL_RATIO, self.width // VAE_SPATIAL_RATIO
        return 1, self.latent_frames + self.padding_frames, LATENT_CHANNELS, height, width
