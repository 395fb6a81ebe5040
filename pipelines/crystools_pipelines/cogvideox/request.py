"""What one asks of CogVideoX text-to-video, and what is wrong with it, said before anything is loaded."""

from dataclasses import dataclass
from typing import ClassVar

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.checks import check_guidance, check_seed, check_size
from crystools_pipelines.requests.size import Size

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

    model: ClassVar[str] = "cogvideox-t2v"

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
        check_size(self.height, self.width, SIZE_MULTIPLE)
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
    def padding_frames(self) -> int:
        """Latent frames in front of the video's, denoised to fill the first patch and then dropped."""
        return -latent_frames(self.num_frames) % PATCH_SIZE

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Batch, frames with their padding, channels, height, width of the latents that are denoised."""
        height, width = self.height // VAE_SPATIAL_RATIO, self.width // VAE_SPATIAL_RATIO
        return 1, latent_frames(self.num_frames) + self.padding_frames, LATENT_CHANNELS, height, width


def latent_frames(num_frames: int) -> int:
    """How many latent frames become a video."""
    return (num_frames - 1) // VAE_TEMPORAL_RATIO + 1
