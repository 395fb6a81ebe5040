"""A snapshot: all sources at one moment, merged by chip."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from crystools_tpu.sources.base import AttachedChips, ChipReading, Histograms, HostReading, Reading
from crystools_tpu.telemetry.events import NOT_ON_THE_WIRE

SourceState: TypeAlias = Literal["unread", "absent", "up", "idle", "waiting", "down"]


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """How a source stands. `up` is None before its first read and for a source this machine lacks.

    `state` says more: a source that is up may be `idle`, because no program uses its chips; one that is not
    yet may be `waiting` for a program to serve their metrics. `reason` says these two in words, and `error`
    why it is absent or down.
    """

    source: str
    up: bool | None
    last_success_unix_seconds: float | None
    errors_total: int
    error: str | None
    state: SourceState = "unread"
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All sources at one moment, which is what the monitor publishes. Chips are in order of their number.

    `histograms` are for scrapes: they do not travel over the wire.
    """

    type: Literal["snapshot"] = field(default="snapshot", init=False)
    time_unix_seconds: float
    simulated: bool
    chips: tuple[ChipReading, ...]
    host: HostReading | None
    sources: tuple[SourceHealth, ...]
    attached: AttachedChips | None = None
    histograms: Histograms | None = field(default=None, metadata=NOT_ON_THE_WIRE)


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(ChipReading))


def merge_chips(readings: Sequence[Reading]) -> tuple[ChipReading, ...]:
    """One row for each chip that any reading names, in order of platform and number.

    Of each field the first reading that knows a value wins.
    """
    chips: dict[str, ChipReading] = {}
    for reading in readings:
        for chip in reading.chips:
            known = chips.setdefault(chip.chip, chip)
            if known is not chip:
                missing = {name: getattr(chip, name) for name in _FIELDS if getattr(known, name) is None}
                chips[chip.chip] = dataclasses.replace(known, **missing)
    return tuple(chips[name] for name in sorted(chips, key=_order))


def _order(chip: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\D*)(\d*)", chip)
    return (match[1], int(match[2] or 0)) if match else (chip, 0)
