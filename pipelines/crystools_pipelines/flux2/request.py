"""What one asks of FLUX.2 text-to-image, and what is wrong with it, said before anything is loaded."""

from dataclasses import dataclass
from typing import ClassVar

from crystools_pipelines.requests.checks import check_guidance, check_seed, check_size, check_steps
from crystools_pipelines.requests.size import Size

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

    branches: ClassVar = 1
    """Guidance takes no branch of its own."""

    model: ClassVar[str] = "flux.2"

    prompt: str
    height: int = 1024
    width: int = 1024
    num_inference_steps: int = 50
    guidance_scale: float = 4.0
    seed: int = 42

    def __post_init__(self) -> None:
        check_size(self.height, self.width, SIZE_MULTIPLE)
        check_steps(self.num_inference_steps)
        check_guidance("guidance_scale", self.guidance_scale)
        check_seed(self.seed)

    @property
    def prompts(self) -> tuple[str, ...]:
        """Those of the guidance branches."""
        return (self.prompt,)

    @property
    def size(self) -> Size:
        """What is made."""
        return Size(self.height, self.width)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        return self.height // SIZE_MULTIPLE, self.width // SIZE_MULTIPLE
