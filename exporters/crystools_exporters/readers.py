"""Which value of a snapshot, or of an event, becomes the sample of a metric.

What the machine calls its parts (a GPU, a mount point) may be any bytes: it is made safe here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from crystools_exporters.samples import Histogram, Labels, Values
from crystools_tpu.telemetry import (
    CompileFinished,
    ModelFreed,
    RunFinished,
    RunStarted,
    StageFinished,
    Status,
    StepFinished,
)
from crystools_tpu.telemetry.text import safe_text

if TYPE_CHECKING:
    from crystools_tpu.monitor import Snapshot
    from crystools_tpu.sources.base import Durations


@dataclass(frozen=True, slots=True)
class SnapshotReader:
    """The samples that a snapshot has of one metric."""

    labels: tuple[str, ...]
    read: Callable[[Snapshot], Values]


Changes: TypeAlias = Iterable[tuple[Labels, float | None]]
"""What an event does to the series of a metric.

A counter grows by the value, a histogram observes it, a gauge becomes it. None is nothing to a counter or a
histogram, and takes away every series of a gauge whose labels begin so.
"""


@dataclass(frozen=True, slots=True)
class EventReader:
    """The changes that events, by their class, make to one metric."""

    labels: tuple[str, ...]
    read: Mapping[type, Callable[[Any], Changes]]

    def __or__(self, other: EventReader) -> EventReader:
        return EventReader(self.labels, {**self.read, **other.read})


@dataclass(frozen=True, slots=True)
class Built:
    """An exporter began, of this version of the package."""

    version: str


@dataclass(frozen=True, slots=True)
class InProgress:
    """A run began or ended, and so many of its pipeline go on."""

    pipeline: str
    runs: int


_LABELS: Final[Mapping[type, Mapping[str, str]]] = {
    Built: {"version": "version"},
    InProgress: {"pipeline": "pipeline"},
    RunFinished: {"pipeline": "report.pipeline", "status": "report.status.value"},
    StageFinished: {"pipeline": "pipeline", "stage": "report.name.value", "status": "report.status.value"},
    StepFinished: {"pipeline": "pipeline", "stage": "stage_name.value"},
    CompileFinished: {"pipeline": "pipeline", "stage": "stage_name.value", "cache": "record.cache.value"},
    ModelFreed: {"reason": "reason"},
}
"""Where an event has the value of a label."""

_ENDS: Final = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)

_E = TypeVar("_E")


def on(
    event: type[_E],
    *labels: str,
    value: Callable[[_E], float | None],
    where: Callable[[_E], bool] = lambda _: True,
) -> EventReader:
    """`value` of each such event, `where` it says anything."""
    paths = [attrgetter(_LABELS[event][label]) for label in labels]

    def changes(happened: _E) -> Changes:
        return [(tuple(path(happened) for path in paths), value(happened))] if where(happened) else []

    return EventReader(labels, {event: changes})


def _zeros(event: RunStarted) -> Changes:
    return [((event.report.pipeline, status.value), 0) for status in _ENDS]


FROM_ZERO: Final = EventReader(("pipeline", "status"), {RunStarted: _zeros})
"""With a pipeline's first run: an increase is seen only from a value that was there."""


def _hbm_peaks(event: StageFinished) -> Changes:
    stage = (event.pipeline, event.report.name.value)
    return [(stage, None), *(((*stage, usage.device), usage.peak_bytes) for usage in event.report.hbm)]


HBM_PEAKS: Final = EventReader(("pipeline", "stage", "device"), {StageFinished: _hbm_peaks})


def chip(field: str) -> SnapshotReader:
    """A field of each chip."""
    return SnapshotReader(
        ("chip",), lambda snapshot: [((chip.chip,), getattr(chip, field)) for chip in snapshot.chips]
    )


def host(field: str) -> SnapshotReader:
    """A field of the host."""
    return SnapshotReader(
        (), lambda snapshot: [((), getattr(snapshot.host, field))] if snapshot.host is not None else []
    )


def disk(field: str) -> SnapshotReader:
    """A field of each disk."""
    return SnapshotReader(
        ("mount",),
        lambda snapshot: [
            ((safe_text(disk.mount),), getattr(disk, field))
            for disk in (snapshot.host.disks if snapshot.host else ())
        ],
    )


def source(field: str) -> SnapshotReader:
    """A field of each source's health."""
    return SnapshotReader(
        ("source",),
        lambda snapshot: [((health.source,), getattr(health, field)) for health in snapshot.sources],
    )


def runtime(field: str, *labels: str) -> SnapshotReader:
    """A distribution that the TPU runtime counts, with the fields of the same names as labels."""

    def read(snapshot: Snapshot) -> Values:
        known = getattr(snapshot.histograms, field) if snapshot.histograms else ()
        return [
            (tuple(safe_text(getattr(one, label)) for label in labels), _histogram(one.durations))
            for one in known
        ]

    return SnapshotReader(labels, read)


def _histogram(durations: Durations) -> Histogram:
    return Histogram(durations.bounds_seconds, durations.counts, durations.sum_seconds)


def _chip_kinds(snapshot: Snapshot) -> Values:
    return [((chip.chip, safe_text(chip.kind)), 1) for chip in snapshot.chips if chip.kind is not None]


CHIP_KINDS: Final = SnapshotReader(("chip", "kind"), _chip_kinds)
