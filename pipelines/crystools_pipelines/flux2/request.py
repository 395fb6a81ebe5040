"""What one asks of FLUX.2 text-to-image, and what is wrong with it, said before anything is loaded."""

import math
from dataclasses import dataclass

from crystools_pipelines.runtime.errors import RequestError

# The VAE halves height and width three times; 2x2 of its latents are one token of the transformer.
VAE_RATIO = 8
PATCH = 2
SIZE_MULTIPLE = PATCH * VAE_RATIO
TOKEN_CHANNELS = 128


@dataclass(frozen=True)
class Flux2Request:
    """One image. Sizes in pixels.

    `guidance_scale` is an input of the transformer, which runs once a step whatever it is.

    Raises RequestError naming the field that cannot be served, and what would.
    """

    prompt: str
    height: int = 1024
    width: int = 1024
    num_inference_steps: int = 50
    guidance_scale: float = 4.0
    seed: int = 42

    def __post_init__(self) -> None:
        for field in ("height", "width"):
            size = getattr(self, field)
            if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
                low = max(SIZE_MULTIPLE, size // SIZE_MULTIPLE * SIZE_MULTIPLE)
                raise RequestError(
                    field, f"{size} is not a positive multiple of {SIZE_MULTIPLE}; {low} would do"
                )
        if self.num_inference_steps < 1:
            raise RequestError(
                "num_inference_steps", f"{self.num_inference_steps} is too few; give 1 or more"
            )
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise RequestError(
                "guidance_scale", f"{self.guidance_scale} is negative or not finite; give 0 or more"
            )
        if not 0 <= self.seed < 2**63:
            raise RequestError("seed", f"{self.seed} is out of range; give 0 to 2**63 - 1")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        return self.height // SIZE_MULTIPLE, self.width // SIZE_MULTIPLE
