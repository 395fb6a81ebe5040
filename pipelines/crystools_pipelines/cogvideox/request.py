"""The request to CogVideoX text-to-video, checked before anything is loaded."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from crystools_pipelines.requests.checks import check_range
from crystools_pipelines.requests.fields import Role, integer, setting
from crystools_pipelines.requests.request import (
    GuidedVideoRequest,
    frames_setting,
    guidance_setting,
    seed_setting,
    size_setting,
    steps_setting,
)
from crystools_pipelines.requests.schedule import scheduler_setting

# The VAE halves height and width three times and time twice; the transformer's patches are 2x2x2 latents.
VAE_SPATIAL_RATIO = 8
VAE_TEMPORAL_RATIO = 4
PATCH_SIZE = 2
SIZE_MULTIPLE = PATCH_SIZE * VAE_SPATIAL_RATIO
FRAMES_MULTIPLE = PATCH_SIZE * VAE_TEMPORAL_RATIO
LATENT_CHANNELS = 16
MAX_STEPS = 1000
SCHEDULERS = ("ddim", "dpm")


@dataclass(frozen=True)
class CogVideoXRequest(GuidedVideoRequest):
    """One video from text; the defaults are those of CogVideoX1.5 5B."""

    model: ClassVar = "cogvideox-t2v"
    size_multiple: ClassVar = SIZE_MULTIPLE

    height: int = size_setting(720, SIZE_MULTIPLE, integer(256, 1080, 8))
    width: int = size_setting(1280, SIZE_MULTIPLE, integer(256, 1920, 8))
    num_frames: int = frames_setting(
        81, FRAMES_MULTIPLE, "of the form 8n or 8n+1", integer(17, 161, 8), or_multiple=True
    )
    num_inference_steps: int = steps_setting(50, partial(check_range, low=1, high=MAX_STEPS))
    guidance_scale: float = guidance_setting(
        6.0,
        help="1 and below: unguided, faster",
        low=1.0,
        tooltip="how closely to follow the prompt; 1: unguided, faster",
    )
    use_dynamic_cfg: bool = setting(
        False, role=Role.SCHEDULE, help="guidance by the step", option="dynamic-cfg"
    )
    seed: int = seed_setting(42)
    scheduler: str | None = scheduler_setting(SCHEDULERS)

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
