"""A LoRA as it is asked for: whose file, how strongly, and of two experts for which."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from crystools_pipelines.errors import RequestError

Expert: TypeAlias = Literal["high", "low"]

EXPERTS: Final[dict[Expert, str]] = {"high": "transformer", "low": "transformer_2"}
"""The component of each of Wan2.2's experts, by the noise that it takes."""

TRANSFORMERS: Final = tuple(EXPERTS.values())
"""The components that a LoRA is merged into; most models have the first alone."""


@dataclass(frozen=True)
class Lora:
    """`location` is a file, a hub id `org/name`, or `org/name/file`; without an `expert` for every
    transformer. Its `str` is what `parse_lora` reads, and what a report says.
    """

    location: str
    scale: float = 1.0
    expert: Expert | None = None

    def __str__(self) -> str:
        beginning = f"{self.expert}:" if self.expert else ""
        return f"{beginning}{self.location}={self.scale:g}"


def check_expert(field: str, lora: Lora, transformers: Collection[str]) -> None:
    """Raises RequestError for a LoRA for one of two experts where the checkpoint has one transformer."""
    if lora.expert is not None and len(transformers) == 1:
        raise RequestError(
            field, f"{lora} is for one of two experts, and this checkpoint has one; leave {lora.expert}: out"
        )


def parse_lora(field: str, text: str) -> Lora:
    """The LoRA that `[high:|low:]FILE|ID[/FILE][=SCALE]` asks for. Raises RequestError for what asks none."""
    beginning, colon, rest = text.strip().partition(":")
    expert = beginning if colon and beginning in EXPERTS else None
    location, equals, number = (rest if expert else text.strip()).rpartition("=")
    if not equals:
        location, number = number, "1"
    try:
        scale = float(number)
    except ValueError:
        raise RequestError(field, f"{text!r} ends in no number; give FILE=SCALE, such as =0.8") from None
    if not location or not math.isfinite(scale):
        raise RequestError(field, f"{text!r} is no LoRA; give a file or a hub id, and =SCALE if not 1")
    return Lora(location, scale, expert)
