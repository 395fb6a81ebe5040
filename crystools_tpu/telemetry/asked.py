"""What a run was asked otherwise than another, in words."""

from __future__ import annotations

from typing import Final

_TITLES: Final = {"step_cache": "step cache", "loras": "LoRA"}
_WITHOUT: Final = {
    "step_cache": "none",
    "loras": "none",
    "preset": "none",
    "scheduler": "the model's own",
    "sigmas": "the scheduler's own",
    "timesteps": "the scheduler's own",
}
"""What it is to ask for nothing of what one need not ask for."""


def otherwise_text(name: str, own: object, other: object) -> str:
    """`step cache mag:0.12,0.2,3 instead of none`, of a parameter that is not the same in both."""
    return f"{_TITLES.get(name, name)} {asked_text(name, own)} instead of {asked_text(name, other)}"


def asked_text(name: str, value: object) -> str:
    """The value of a parameter, in words where nothing was asked."""
    return _WITHOUT.get(name, "None") if value is None else str(value)


def asked_title(name: str) -> str:
    """What a parameter is called in a sentence."""
    return _TITLES.get(name, name)
