"""The base classes of all models' requests, and the fields that several of them have."""

from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

from crystools_pipelines.requests.checks import (
    check_frames,
    check_guidance,
    check_seed,
    check_size,
    check_steps,
)
from crystools_pipelines.requests.fields import (
    PROMPT,
    SEED,
    Check,
    Input,
    Role,
    number,
    setting,
    settings_of,
    values_of,
)
from crystools_pipelines.requests.lora import Lora, parse_lora
from crystools_pipelines.requests.schedule import settle_steps
from crystools_pipelines.requests.step_cache import FORMS, StepCache, parse_step_cache


class Size(NamedTuple):
    """The height and width of what is made, in pixels; an image is one frame."""

    height: int
    width: int
    num_frames: int = 1


@dataclass(frozen=True)
class Request:
    """A request to a model. Each field says in its declaration what it means (see `settings_of`).

    Raises RequestError naming the field that cannot be served, and what would.
    """

    model: ClassVar[str]
    """The model's id among MODELS."""
    size_multiple: ClassVar[int]
    """Heights and widths are multiples of it, in pixels."""

    prompt: str = setting(role=Role.CONTENT, help="what to show", widget=PROMPT)
    _: KW_ONLY
    loras: tuple[Lora, ...] = setting(
        (),
        role=Role.WEIGHTS,
        help="a LoRA to merge into the weights, of two experts into both or the one before the colon; "
        "may be repeated",
        option="lora",
        metavar="[high:|low:]FILE|ID[/FILE][=SCALE]",
        parse=parse_lora,
        repeated=True,
    )
    step_cache: StepCache | None = setting(  # noqa: RUF009 - it makes a field
        None,
        role=Role.PROGRAM,
        help="skip steps: first-block:THRESHOLD, mag:THRESHOLD[,RETENTION,MAX], taylorseer:INTERVAL;"
        " or calibrate",
        metavar="RULE",
        widget=("STRING", {"default": "", "tooltip": f"which steps to skip: {FORMS}; empty: none"}),
        parse=parse_step_cache,
    )

    def __post_init__(self) -> None:
        for name, declared in settings_of(type(self)).items():
            value = getattr(self, name)
            if declared.check is not None and not (value is None and declared.default is None):
                declared.check(name, value)
        settle_steps(self)

    @property
    def size(self) -> Size:
        """The size of what is made."""
        return Size(**values_of(self, Role.SHAPE))

    @classmethod
    def of_any_content(cls, **fields: Any) -> Self:
        """A request with these fields for what depends on no content, such as a plan or a check of sizes."""
        return cls(**{"prompt": "", **fields})


def size_setting(default: int, multiple: int, widget: Input) -> Any:
    """A height or a width, in pixels."""
    check = partial(check_size, multiple=multiple)
    about = f"a multiple of {multiple}"
    return setting(default, role=Role.SHAPE, help=about, check=check, metavar="PIXELS", widget=widget)


def frames_setting(
    default: int, multiple: int, form: str, widget: Input, *, or_multiple: bool = False
) -> Any:
    """How many frames a video has; `form` says which numbers can be had."""
    check = partial(check_frames, multiple=multiple, form=form, or_multiple=or_multiple)
    return setting(
        default, role=Role.SHAPE, help=form, check=check, option="frames", metavar="N", widget=widget
    )


def steps_setting(default: int, check: Check = check_steps) -> Any:
    """How many denoising steps there are."""
    about = "denoising steps"
    widget = ("INT", {"min": 1, "max": 100, "tooltip": about})
    return setting(
        default, role=Role.SCHEDULE, help=about, check=check, option="steps", metavar="N", widget=widget
    )


def guidance_setting(default: float, help: str, low: float, tooltip: str) -> Any:
    """How closely to follow the prompt; `low` is the least that the widget offers."""
    widget = number(low, 20.0, 0.1, tooltip)
    return setting(default, role=Role.SCHEDULE, help=help, check=check_guidance, widget=widget)


def seed_setting(default: int) -> Any:
    """The seed of the noise."""
    return setting(default, role=Role.CONTENT, help="of the noise", check=check_seed, widget=SEED)


@dataclass(frozen=True)
class GuidedVideoRequest(Request):
    """A video that is guided towards a prompt and away from another, as in diffusers' pipelines.

    Each model declares its own sizes, frames and scale. The defaults are 720p in 81 frames.
    """

    negative_prompt: str = setting("", role=Role.CONTENT, help="what not to show", widget=PROMPT)
    height: int = 720
    width: int = 1280
    num_frames: int = 81
    num_inference_steps: int = steps_setting(50)
    guidance_scale: float = 5.0
    seed: int = seed_setting(0)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of the guidance branches: its own, and the negative one where it is guided."""
        return (self.prompt, self.negative_prompt)[: self.branches]

    @property
    def branches(self) -> int:
        """How many guidance branches run."""
        return 2 if self.guidance_scale > 1 else 1
