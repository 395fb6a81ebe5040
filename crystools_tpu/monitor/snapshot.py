"""A snapshot: all sources at one moment, merged by chip."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from crystools_tpu.sources.base import ChipReading, Histograms, HostReading
from crystools_tpu.telemetry.events import NOT_ON_THE_WIRE


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """How a source stands. `up` is None before its first read and for a source this machine lacks."""

    source: str
    up: bool | None
    last_success_unix_seconds: float | None
    errors_total: int
    error: str | None


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
    histograms: Histograms | None = field(default=None, metadata=NOT_ON_THE_WIRE)
