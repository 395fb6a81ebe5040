"""A component that left the devices' memory, in the words in which a run warns of it, and read from these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from crystools_tpu.telemetry.events import RunReport
from crystools_tpu.telemetry.labels import size_label

_TEXT: Final = re.compile(
    r"(?:evicted|freed) (?P<component>\S+) of (?P<model>.+), (?P<size>[\d.]+ [GM]iB), .+"
)


class Eviction(NamedTuple):
    """What left, of which model, and its size in words."""

    component: str
    model: str
    size: str


def eviction_text(what: str, component: str, model: str, freed_bytes: int, why: str) -> str:
    """`evicted vae of ./wan, 484.0 MiB, for another that needed the room`."""
    return f"{what} {component} of {model}, {size_label(freed_bytes)}, {why}"


def evictions_of(run: RunReport) -> Iterator[Eviction]:
    """What left because of this run."""
    for warning in run.warnings:
        if told := _TEXT.fullmatch(warning):
            yield Eviction(told["component"], told["model"], told["size"])
