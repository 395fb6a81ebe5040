"""What a source of hardware readings is, and what it may say.

A source answers with a frozen `Reading` or raises `SourceError`. What it does not know is `None`; it
never returns an invented value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class SourceError(Exception):
    """A source could not be read. The message says what failed and what would help."""


class SourceUnavailable(SourceError):
    """The source does not exist on this machine (no TPU, no NVIDIA driver, jax not loaded): no fault."""


@dataclass(frozen=True, slots=True)
class ChipReading:
    """One chip at one moment. `chip` is its id (`tpu0`, `gpu0`, `cpu0`), the same in every source."""

    chip: str
    kind: str | None = None
    hbm_used_bytes: int | None = None
    hbm_total_bytes: int | None = None
    duty_cycle_ratio: float | None = None
    tensorcore_utilization_ratio: float | None = None
    hbm_bandwidth_utilization_ratio: float | None = None
    temperature_celsius: float | None = None


@dataclass(frozen=True, slots=True)
class DiskReading:
    """One mounted file system, in bytes."""

    mount: str
    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class HostReading:
    """The machine itself. `cpu_utilization_ratio` is over all cores since the last read, 0..1."""

    cpu_utilization_ratio: float | None
    memory_used_bytes: int
    memory_total_bytes: int
    disks: tuple[DiskReading, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one source says at one moment."""

    chips: tuple[ChipReading, ...] = ()
    host: HostReading | None = None


class Source(Protocol):
    """A place where hardware readings come from. `read` may block: the monitor gives it a deadline."""

    @property
    def name(self) -> str:
        """The value of the `source` label, from a closed set."""

    def read(self) -> Reading:
        """One reading. Raises `SourceError`."""

    def close(self) -> None:
        """Lets go of channels, children and handles. May be called more than once."""
