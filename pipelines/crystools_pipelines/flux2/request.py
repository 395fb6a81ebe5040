"""The request to FLUX.2 text-to-image, checked before anything is loaded."""

from dataclasses import dataclass
from typing import ClassVar

from crystools_pipelines.requests.fields import integer
from crystools_pipelines.requests.request import (
    Request,
    guidance_setting,
    seed_setting,
    size_setting,
    steps_setting,
)
from crystools_pipelines.requests.schedule import FLOW_SCHEDULERS, scheduler_setting, sigmas_setting

# The VAE halves height and width three times; 2x2 of its latents are one token of the transformer.
VAE_RATIO = 8
PATCH = 2
SIZE_MULTIPLE = PATCH * VAE_RATIO
TOKEN_CHANNELS = 128


@dataclass(frozen=True)
class Flux2Request(Request):
    """One image. `guidance_scale` is an input of the transformer, which runs once a step whatever it is."""

    model: ClassVar = "flux.2"
    size_multiple: ClassVar = SIZE_MULTIPLE
    branches: ClassVar = 1
    """Guidance takes no branch of its own."""

    height: int = size_setting(1024, SIZE_MULTIPLE, integer(256, 2048, 16))
    width: int = size_setting(1024, SIZE_MULTIPLE, integer(256, 2048, 16))
    num_inference_steps: int = steps_setting(50)
    guidance_scale: float = guidance_setting(
        4.0, help="always guided", low=0.0, tooltip="how closely to follow the prompt"
    )
    seed: int = seed_setting(42)
    scheduler: str | None = scheduler_setting(FLOW_SCHEDULERS)
    sigmas: tuple[float, ...] | None = sigmas_setting()

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of the one guidance branch."""
        return (self.prompt,)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        return self.height // SIZE_MULTIPLE, self.width // SIZE_MULTIPLE
