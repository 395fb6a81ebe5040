"""Several readings into one: for each chip and field the first reading that knows a value wins."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from crystools_tpu.sources.base import ChipReading, Histograms, HostReading, Reading

_FIELDS = tuple(field.name for field in dataclasses.fields(ChipReading))


def merge_chips(readings: Sequence[Reading]) -> tuple[ChipReading, ...]:
    """One row for each chip that any reading names, in order of platform and number."""
    chips: dict[str, ChipReading] = {}
    for reading in readings:
        for chip in reading.chips:
            known = chips.get(chip.chip)
            chips[chip.chip] = chip if known is None else _fill(known, chip)
    return tuple(chips[name] for name in sorted(chips, key=_order))


def merge_host(readings: Sequence[Reading]) -> HostReading | None:
    """The first reading of the host."""
    return next((reading.host for reading in readings if reading.host is not None), None)


def merge_histograms(readings: Sequence[Reading]) -> Histograms | None:
    """The first source's histograms."""
    return next((reading.histograms for reading in readings if reading.histograms is not None), None)


def _fill(known: ChipReading, more: ChipReading) -> ChipReading:
    missing = {name: getattr(more, name) for name in _FIELDS if getattr(known, name) is None}
    return dataclasses.replace(known, **missing)


def _order(chip: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\D*)(\d*)", chip)
    return (match[1], int(match[2] or 0)) if match else (chip, 0)
