"""Which steps a request takes: by which scheduler, and at which sigmas or timesteps."""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, TypeVar

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.fields import Check, Parse, Role, setting, settings_of

CHECKPOINTS_OWN: Final = "checkpoint's own"
"""The first choice of a node's scheduler: what the checkpoint is published with, which is None."""

FLOW_SCHEDULERS: Final = ("unipc", "euler", "dpm++")
"""The schedulers of flow matching (`runtime.flow`)."""

_TRAIN_STEPS: Final = 1000

Number = TypeVar("Number", int, float)


def scheduler_setting(names: tuple[str, ...]) -> Any:
    """The scheduler, one of `names`; None, and as a text nothing or CHECKPOINTS_OWN, is the checkpoint's."""
    about = f"{', '.join(names)}; else the checkpoint's own"
    tooltip = "which scheduler to step with"
    return setting(
        None,
        role=Role.SCHEDULE,
        help=about,
        check=partial(_check_scheduler, names=names),
        metavar="NAME",
        widget=([CHECKPOINTS_OWN, *names], {"default": CHECKPOINTS_OWN, "tooltip": tooltip}),
        kw_only=True,
        parse=partial(_parse_scheduler, names=names),
    )


def sigmas_setting() -> Any:
    """The shares of noise of the steps, before the shift; None, and as a text nothing, the scheduler's."""
    about = "the share of noise of each step, before the shift, such as 1,0.75,0.5,0.25"
    return _list_setting(about, "S,S,...", _check_sigmas, _parse_sigmas)


def timesteps_setting() -> Any:
    """The timesteps of the steps; None, and as a text nothing, the scheduler's."""
    about = "the timestep of each step, such as 1000,750,500,250; euler with a shift of 1 takes them"
    return _list_setting(about, "T,T,...", _check_timesteps, _parse_timesteps)


def _list_setting(about: str, metavar: str, check: Check, parse: Parse) -> Any:
    return setting(
        None,
        role=Role.SCHEDULE,
        help=about,
        check=check,
        metavar=metavar,
        widget=("STRING", {"default": "", "tooltip": f"{about}; empty: the scheduler's"}),
        kw_only=True,
        parse=parse,
    )


def settle_steps(request: Any) -> None:
    """Sets the number of steps to that of the sigmas or timesteps, if any.

    Raises RequestError where both are given, and for another number of steps unless that is the default.
    """
    given = {
        name: value for name in ("sigmas", "timesteps") if (value := getattr(request, name, None)) is not None
    }
    if len(given) > 1:
        raise RequestError("timesteps", "the sigmas say where the steps are; give one of the two")
    for values in given.values():
        default = settings_of(type(request))["num_inference_steps"].default
        if request.num_inference_steps != default:
            check_steps_agree(request.num_inference_steps, len(values))
        object.__setattr__(request, "num_inference_steps", len(values))


def check_steps_agree(steps: int, count: int) -> None:
    """Raises RequestError unless there are so many steps as there are sigmas or timesteps."""
    if steps != count:
        raise RequestError(
            "num_inference_steps",
            f"{steps} disagrees with the {count} sigmas or timesteps; leave one of the two out",
        )


def _parse_scheduler(field: str, text: str, names: tuple[str, ...]) -> str | None:
    name = text.strip()
    if name in ("", CHECKPOINTS_OWN):
        return None
    _check_scheduler(field, name, names)
    return name


def _check_scheduler(field: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise RequestError(field, f"{name!r} is not known; give {' or '.join(names)}")


def _parse_sigmas(field: str, text: str) -> tuple[float, ...] | None:
    return _numbers(field, text, float, "numbers, such as 1,0.75,0.5,0.25")


def _check_sigmas(field: str, sigmas: Sequence[float]) -> None:
    for sigma in sigmas:
        if not (math.isfinite(sigma) and 0 < sigma <= 1):
            raise RequestError(field, f"{sigma} is no share of noise; give numbers above 0, at most 1")
    _check_falling(field, sigmas)


def _parse_timesteps(field: str, text: str) -> tuple[int, ...] | None:
    return _numbers(field, text, int, "whole numbers, such as 1000,750,500,250")


def _check_timesteps(field: str, timesteps: Sequence[int]) -> None:
    for timestep in timesteps:
        if not 1 <= timestep <= _TRAIN_STEPS:
            raise RequestError(field, f"{timestep} is out of range; give 1 to {_TRAIN_STEPS}")
    _check_falling(field, timesteps)


def _numbers(field: str, text: str, kind: type[Number], wanted: str) -> tuple[Number, ...] | None:
    """The numbers between commas; None of a text without any."""
    if not text.strip():
        return None
    try:
        return tuple(kind(each) for each in text.split(","))
    except ValueError:
        raise RequestError(field, f"{text!r} is no list of numbers; give {wanted}") from None


def _check_falling(field: str, values: Sequence[float]) -> None:
    if not values:
        raise RequestError(field, "there is none; give one for each step, or leave it out")
    for before, after in itertools.pairwise(values):
        if after >= before:
            raise RequestError(field, f"{after} follows {before}; give them falling")
