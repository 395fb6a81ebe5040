"""The request to Wan, checked before anything is loaded."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.checks import check_guidance, check_range
from crystools_pipelines.requests.fields import Input, Role, integer, number, setting
from crystools_pipelines.requests.request import (
    GuidedVideoRequest,
    frames_setting,
    guidance_setting,
    size_setting,
)
from crystools_pipelines.requests.schedule import (
    FLOW_SCHEDULERS,
    scheduler_setting,
    sigmas_setting,
    timesteps_setting,
)

# The VAE halves height and width three times and time twice; the transformer's patches are 1x2x2 latents.
VAE_SPATIAL_RATIO = 8
VAE_TEMPORAL_RATIO = 4
SIZE_MULTIPLE = 2 * VAE_SPATIAL_RATIO
LATENT_CHANNELS = 16


def wan_guidance_setting(default: float) -> Any:
    """The guidance scale, which decides whether the negative branch runs."""
    about = "1 and below: unguided, faster"
    tooltip = f"how closely to follow the prompt; {about}"
    return guidance_setting(default, help=about, low=0.0, tooltip=tooltip)


@dataclass(frozen=True)
class WanRequest(GuidedVideoRequest):
    """A request to any Wan model; the defaults are those of the published 720p models."""

    size_multiple: ClassVar = SIZE_MULTIPLE

    height: int = size_setting(720, SIZE_MULTIPLE, integer(256, 1280, 16))
    width: int = size_setting(1280, SIZE_MULTIPLE, integer(256, 1280, 16))
    num_frames: int = frames_setting(81, VAE_TEMPORAL_RATIO, "of the form 4n+1", integer(17, 121, 4))
    guidance_scale: float = wan_guidance_setting(5.0)
    scheduler: str | None = scheduler_setting(FLOW_SCHEDULERS)
    sigmas: tuple[float, ...] | None = sigmas_setting()
    timesteps: tuple[int, ...] | None = timesteps_setting()

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Batch, channels, frames, height, width of the latents."""
        frames = (self.num_frames - 1) // VAE_TEMPORAL_RATIO + 1
        return 1, LATENT_CHANNELS, frames, self.height // VAE_SPATIAL_RATIO, self.width // VAE_SPATIAL_RATIO


def check_shift(field: str, shift: float) -> None:
    """Raises RequestError for a shift of the flow schedule, which has no unit, that is not positive."""
    if not (math.isfinite(shift) and shift > 0):
        raise RequestError(field, f"{shift} is not a positive number; 3 to 5 is usual")


def shift_setting(
    default: float, high: float, step: float, about: str = "of the schedule: 5 suits 720p, 3 suits 480p"
) -> Any:
    """The shift of the flow schedule, which replaces the checkpoint's own; the widget offers 1 to `high`."""
    widget = number(1.0, high, step, about)
    return setting(default, role=Role.SCHEDULE, help=about, check=check_shift, widget=widget)


@dataclass(frozen=True)
class ExpertsRequest(WanRequest):
    """A request to a Wan model with two transformers.

    A `boundary_ratio` of None is the checkpoint's, a `guidance_scale_2` of None the same as `guidance_scale`,
    which alone decides whether the negative branch runs.
    """

    shift: float = 5.0
    guidance_scale_2: float | None = None
    boundary_ratio: float | None = None


def guidance_2_setting(default: float | None, widget: Input | None = None) -> Any:
    """The guidance scale of the second transformer."""
    about = "guidance_scale of transformer_2"
    return setting(default, role=Role.SCHEDULE, help=about, check=_check_guidance_2, widget=widget)


def _check_guidance_2(field: str, scale: float | None) -> None:
    if scale is not None:
        check_guidance(field, scale)


def boundary_setting(published: float, step: float) -> Any:
    """Where the second transformer takes over; None is the checkpoint's own, which the widget shows."""
    about = "transformer_2 takes the timesteps below this share"
    widget = number(0.0, 1.0, step, about, default=published)
    check = partial(check_range, low=0, high=1)
    return setting(None, role=Role.SCHEDULE, help=about, check=check, widget=widget)
