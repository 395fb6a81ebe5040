"""What a source of hardware readings is, and what it may say.

A source answers with a frozen `Reading` or raises `SourceError`. What it does not know is `None`; it
never returns an invented value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from crystools_tpu.telemetry.device_names import kind_label


class SourceError(Exception):
    """A source could not be read. The message says what failed and what would help.

    `known` is what holds all the same.
    """

    def __init__(self, message: str, *, known: Reading | None = None) -> None:
        super().__init__(message)
        self.known = known


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
class ChipUser:
    """A process that has TPU chips open. `name` is the kernel's: the first 15 bytes of the program's."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class AttachedChips:
    """The TPU chips that the machine has, whether or not a program uses them, by sysfs.

    `pci_addresses` are those of their PCI functions: two a chip on 7x, else one. `sentence` says in plain
    words what is known of their use while no runtime gives figures of them (`8 x v6e, idle: no program uses
    them`), and `word` where there is little room (`idle`, `idle?`, `in use`, `no figures`); both are None
    while one does. `users` are looked for only then, as far as this user may see.
    """

    kind: str
    count: int
    pci_addresses: tuple[str, ...]
    sentence: str | None = None
    word: str | None = None
    users: tuple[ChipUser, ...] = ()

    @property
    def label(self) -> str:
        """`8 x v6e`."""
        return f"{self.count} x {kind_label(self.kind)}"


@dataclass(frozen=True, slots=True)
class Quiet:
    """Why a source has no figures though nothing is wrong.

    `idle`: no program uses the chips, as far as can be seen. `waiting`: one does, and serves no metrics yet.
    """

    state: Literal["idle", "waiting"]
    reason: str


@dataclass(frozen=True, slots=True)
class DiskReading:
    """One mounted file system, in bytes."""

    mount: str
    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class HostReading:
    """The machine itself, or that part of it which the container may use.

    `cpu_utilization_ratio` is over the `cpu_count` CPUs that may be used, since the last read, 0..1; less
    than one CPU is possible. `memory_total_bytes` is the memory that may be used.
    """

    cpu_utilization_ratio: float | None
    memory_used_bytes: int
    memory_total_bytes: int
    disks: tuple[DiskReading, ...]
    cpu_count: float | None = None
    machine_cpu_count: int | None = None
    machine_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Durations:
    """Durations that a TPU runtime has counted, in buckets, and their sum.

    `counts` has one entry a bound, for what lies below it and not below the one before, and a last one for
    what exceeds them all.
    """

    bounds_seconds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_seconds: float


@dataclass(frozen=True, slots=True)
class HloExecutions:
    """How long the programs took that ran on the cores of one chip. `core_type` as the runtime names it."""

    chip: str
    core_type: str
    durations: Durations


@dataclass(frozen=True, slots=True)
class MegascaleLatencies:
    """How long one operation between slices took. `buffer_size` as the runtime names it (`8MB+`)."""

    operation: str
    buffer_size: str
    durations: Durations


@dataclass(frozen=True, slots=True)
class Histograms:
    """The distributions of a TPU runtime."""

    hlo_executions: tuple[HloExecutions, ...]
    megascale_latencies: tuple[MegascaleLatencies, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one source says at one moment."""

    chips: tuple[ChipReading, ...] = ()
    host: HostReading | None = None
    histograms: Histograms | None = None
    attached: AttachedChips | None = None
    quiet: Quiet | None = None


class Source(Protocol):
    """A place where hardware readings come from. `read` may block: the monitor gives it a deadline."""

    @property
    def name(self) -> str:
        """The value of the `source` label, from a closed set."""

    def read(self) -> Reading:
        """One reading. Raises `SourceError`."""

    def close(self) -> None:
        """Lets go of channels, children and handles. May be called more than once."""
