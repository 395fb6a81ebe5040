"""A snapshot: all sources at one moment, merged by chip."""

from __future__ import annotations

from dataclasses import dataclass

from crystools_tpu.sources.base import ChipReading, Histograms, HostReading


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
    """What the monitor publishes at each sample. Chips are in order of their number.

    `histograms` are for scrapes: they do not travel over the wire.
    """

    time_unix_seconds: float
    simulated: bool
    chips: tuple[ChipReading, ...]
    host: HostReading | None
    sources: tuple[SourceHealth, ...]
    histograms: Histograms | None = None
