"""Which value of a snapshot, or of an event, becomes the sample of a metric.

What the machine calls its parts (a GPU, a mount point) may be any bytes: it is made safe here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from crystools_exporters.node_classes import known_class
from crystools_exporters.samples import Histogram, Labels, Values
from crystools_tpu.telemetry import (
    CompileFinished,
    Event,
    ModelFreed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageName,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
)
from crystools_tpu.telemetry.events import CACHED, FULL
from crystools_tpu.telemetry.step_times import is_timed
from crystools_tpu.telemetry.text import safe_text

if TYPE_CHECKING:
    from crystools_tpu.monitor import Snapshot
    from crystools_tpu.sources.base import HloExecutions, MegascaleLatencies


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


@dataclass(frozen=True, slots=True)
class NodeFinished:
    """A node of a workflow ended."""

    run_id: str
    node_class: str
    report: StageReport


@dataclass(frozen=True, slots=True)
class NodeStepFinished:
    """A node took a step."""

    run_id: str
    node_class: str
    seconds: float


Happened: TypeAlias = Event | Built | InProgress | NodeFinished | NodeStepFinished


class Nodes:
    """Tells the nodes of workflows from the stages of pipelines, whose metrics they would falsify.

    They have metrics of their own. What is compiled in a node, and in no stage of a pipeline's, counts as
    compiled in the stage `node`.
    """

    def __init__(self) -> None:
        self._classes: dict[tuple[str, int], str] = {}  # of those that run

    def happenings(self, event: Event) -> Iterable[Happened]:
        """What metrics are read from for an event."""
        if isinstance(event, StageStarted) and event.report.name is StageName.NODE:
            self._classes[event.run_id, event.stage] = known_class(event.report.component)
        elif isinstance(event, StepFinished) and event.stage_name is StageName.NODE:
            node_class = self._classes.get((event.run_id, event.stage))
            if node_class is None or not is_timed(event.record):  # of one that began before anybody counted
                return ()
            return (NodeStepFinished(event.run_id, node_class, event.record.seconds),)
        elif isinstance(event, StageFinished) and event.report.name is StageName.NODE:
            self._classes.pop((event.run_id, event.stage), None)
            return (NodeFinished(event.run_id, known_class(event.report.component), event.report),)
        return (event,)


_LABELS: Final[Mapping[type, Mapping[str, str]]] = {
    Built: {"version": "version"},
    InProgress: {"pipeline": "pipeline"},
    RunFinished: {"pipeline": "report.pipeline", "status": "report.status._value_"},
    StageFinished: {
        "pipeline": "pipeline",
        "stage": "report.name._value_",
        "status": "report.status._value_",
    },
    StepFinished: {"pipeline": "pipeline", "stage": "stage_name._value_"},
    CompileFinished: {"pipeline": "pipeline", "stage": "stage_name._value_", "cache": "record.cache._value_"},
    ModelFreed: {"reason": "reason"},
    NodeFinished: {"node_class": "node_class", "status": "report.status._value_"},
    NodeStepFinished: {"node_class": "node_class"},
}
"""Where an event has the value of a label. An enumeration's `value` is many times as slow as `_value_`."""

_ENDS: Final = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)

_E = TypeVar("_E")


def on(
    event: type[_E],
    *labels: str,
    value: Callable[[_E], float | None],
    where: Callable[[_E], bool] | None = None,
) -> EventReader:
    """`value` of each such event, `where` it says anything."""
    texts = _texts([_LABELS[event][label] for label in labels])

    def changes(happened: _E) -> Changes:
        return ((texts(happened), value(happened)),) if where is None or where(happened) else ()

    return EventReader(labels, {event: changes})


def _texts(paths: Sequence[str]) -> Callable[[Any], Labels]:
    if len(paths) > 1:
        return attrgetter(*paths)
    if not paths:
        return lambda part: ()
    text = attrgetter(paths[0])
    return lambda part: (text(part),)


def _zeros(event: RunStarted) -> Changes:
    return [((event.report.pipeline, status.value), 0) for status in _ENDS]


FROM_ZERO: Final = EventReader(("pipeline", "status"), {RunStarted: _zeros})
"""With a pipeline's first run: an increase is seen only from a value that was there."""


def _hbm_peaks(event: StageFinished) -> Changes:
    stage = (event.pipeline, event.report.name.value)
    return [(stage, None), *(((*stage, usage.device), usage.peak_bytes) for usage in event.report.hbm)]


HBM_PEAKS: Final = EventReader(("pipeline", "stage", "device"), {StageFinished: _hbm_peaks})


_COUNTED_KINDS: Final = frozenset({FULL, CACHED})


def _kind(event: StepFinished) -> str:
    """The kind of a step, of a closed set: a pipeline may have any words of its own."""
    return event.record.kind if event.record.kind in _COUNTED_KINDS else "other"


def _steps(event: StepFinished) -> Changes:
    kind = "compiled" if event.record.compiled else _kind(event)
    return (((event.pipeline, event.stage_name._value_, kind), 1),)


def _step_seconds(event: StepFinished) -> Changes:
    if event.record.compiled:
        return ()
    return (((event.pipeline, event.stage_name._value_, _kind(event)), event.record.seconds),)


STEPS: Final = EventReader(("pipeline", "stage", "kind"), {StepFinished: _steps})
STEP_SECONDS: Final = EventReader(("pipeline", "stage", "kind"), {StepFinished: _step_seconds})


def each(
    parts: Callable[[Snapshot], Iterable[Any]], *labels: str, value: Callable[[Any], float | Histogram | None]
) -> SnapshotReader:
    """`value` of each of these parts of a snapshot, whose fields have the names of the labels."""

    texts = _texts(labels)
    ours = set(labels) <= {"chip", "source"}  # safe, and many

    def read(snapshot: Snapshot) -> Values:
        if ours:
            return [(texts(part), value(part)) for part in parts(snapshot)]
        return [(tuple(map(safe_text, texts(part))), value(part)) for part in parts(snapshot)]

    return SnapshotReader(labels, read)


def chip(field: str) -> SnapshotReader:
    """A field of each chip."""
    return each(lambda snapshot: snapshot.chips, "chip", value=attrgetter(field))


def host(field: str) -> SnapshotReader:
    """A field of the host."""
    return each(lambda snapshot: [snapshot.host] if snapshot.host else [], value=attrgetter(field))


def disk(field: str) -> SnapshotReader:
    """A field of each disk."""
    return each(
        lambda snapshot: snapshot.host.disks if snapshot.host else (), "mount", value=attrgetter(field)
    )


def source(field: str) -> SnapshotReader:
    """A field of each source's health."""
    return each(lambda snapshot: snapshot.sources, "source", value=attrgetter(field))


def runtime(field: str, *labels: str) -> SnapshotReader:
    """A distribution that the TPU runtime counts."""
    return each(lambda snapshot: getattr(snapshot.histograms, field, ()), *labels, value=_histogram)


def _histogram(counted: HloExecutions | MegascaleLatencies) -> Histogram:
    durations = counted.durations
    return Histogram(durations.bounds_seconds, durations.counts, durations.sum_seconds)


CHIP_KINDS: Final = each(
    lambda snapshot: [chip for chip in snapshot.chips if chip.kind is not None],
    "chip",
    "kind",
    value=lambda _: 1,
)


ATTACHED: Final = each(
    lambda snapshot: () if snapshot.attached is None else (snapshot.attached,),
    "kind",
    value=attrgetter("count"),
)

IDLE_SOURCES: Final = each(
    lambda snapshot: [source for source in snapshot.sources if source.up is not None],
    "source",
    value=lambda source: source.state == "idle",
)
