"""A run as a trace file for Perfetto's viewer: stages, steps, compiles and the memory of each device.

    Path("run.pftrace").write_bytes(perfetto_trace(report))

What is not known has no event: a run or stage without an end is drawn open, and the moment of a memory peak
within its stage, which no report has, is not guessed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    BUILTIN_CLOCK_BOOTTIME,
    BUILTIN_CLOCK_REALTIME,
    CounterDescriptor,
    DebugAnnotation,
    TrackDescriptor,
    TrackEvent,
)
from perfetto.trace_builder.proto_builder import TraceProtoBuilder

from crystools_exporters.params import shareable_params
from crystools_tpu.telemetry import (
    CompileRecord,
    HbmUsage,
    HostMemory,
    RunReport,
    StageReport,
    StepRecord,
    outcome,
    stage_label,
)
from crystools_tpu.telemetry.device_names import device_of, memory_label
from crystools_tpu.telemetry.events import CACHED, plain
from crystools_tpu.telemetry.stage_tree import parent_of, walk
from crystools_tpu.telemetry.suspicion import suspicions

_SEQUENCE: Final = 1

# Times of day have a resolution of a quarter of a microsecond: what seems to overlap by less follows.
_CLOCK_SECONDS: Final = 1e-5

_MOST_TRACKS: Final = 10_000

_PEAK: Final = "The peak of each stage, held over the stage: when within it the peak was is not known."
_USED: Final = "Memory in use where a stage began and where it ended; what lies between was not recorded."


def perfetto_trace(report: RunReport) -> bytes:
    """The run as a serialized Perfetto trace; valid however far the run has come.

    Times are the report's own times of day, in nanoseconds since 1970. Parameters go along without prompts.
    """
    builder = _Builder(round(report.started_unix_seconds * 1e9))
    root = builder.track(report.pipeline if report.name is None else f"{report.pipeline} {report.name}")
    arguments = {"outcome": outcome(report), **plain(report), "params": plain(shareable_params(report))}
    arguments = _without(arguments, "stages", "content_params")
    if suspects := list(suspicions(report)):
        arguments["suspect"] = suspects
    builder.slice(root, "run", report.started_unix_seconds, report.total_seconds, arguments)
    stages, steps = _Lanes(builder, root, "Stages"), _Lanes(builder, root, "Steps")
    _add_stages(builder, stages, report.stages)
    for stage in report.stages:
        _add_steps(builder, steps, stage)
    compiles = [compiled for stage in report.stages for compiled in stage.compiles]
    if compiles:
        _add_compiles(builder, _Lanes(builder, root, "Compiles"), compiles)
    for device in dict.fromkeys(usage.device for stage in report.stages for usage in stage.hbm):
        memory, chip = memory_label([device]), device_of(report, device)
        names = f"{memory} {chip}", f"{memory} peak {chip}"
        _add_memory(builder, root, names, report.stages, partial(_usage_of, device))
    if any(stage.host_memory for stage in report.stages):
        names = "Host memory", "Host memory peak"
        _add_memory(builder, root, names, report.stages, attrgetter("host_memory"))
    return builder.serialize()


def _add_stages(builder: _Builder, lanes: _Lanes, stages: Sequence[StageReport]) -> None:
    """Each stage, with its parts in it; of those that overlap (asynchronous nodes) each in a lane of its own.

    A node's time stands while others run that are no part of it: it is drawn to the end of its last part.
    """
    ends = _drawn_ends(stages)
    inside: dict[int, _Lane] = {}  # by stage: what is left of its slice for its parts
    begun: list[tuple[int, int, float | None]] = []

    def end_down_to(depth: int) -> None:
        while begun and begun[-1][0] >= depth:
            _, track, end = begun.pop()
            if end is not None:
                builder.end(track, end)

    for position, depth in walk(stages):
        stage, end = stages[position], ends[position]
        parent = parent_of(stages, position)
        lane = inside.get(-1 if parent is None else parent)
        if lane is None or not lane.is_free(stage.started_unix_seconds):
            lane = lanes.free(stage.started_unix_seconds)
        start = lane.take(stage.started_unix_seconds, end)
        inside[position] = _Lane(lane.track, start)
        end_down_to(depth)
        arguments = _without(plain(stage), "steps", "compiles", "hbm", "parent")
        builder.begin(lane.track, stage_label(stage), start, arguments)
        begun.append((depth, lane.track, end))
    end_down_to(0)


def _drawn_ends(stages: Sequence[StageReport]) -> list[float | None]:
    """Where each stage's slice ends; None for one that is open, or has a part that is."""
    ends = [None if s.seconds is None else s.started_unix_seconds + s.seconds for s in stages]
    for position in reversed(range(len(stages))):
        parent, end = parent_of(stages, position), ends[position]
        if parent is not None and (so_far := ends[parent]) is not None:
            ends[parent] = None if end is None else max(so_far, end)
    return ends


def _add_steps(builder: _Builder, lanes: _Lanes, stage: StageReport) -> None:
    """Steps follow each other from the stage's beginning: each ends where the device finished it."""
    if not stage.steps:
        return
    start = stage.started_unix_seconds
    lane = lanes.free(start)
    start = lane.take(start, sum((step.seconds for step in stage.steps), start))
    for number, step in enumerate(stage.steps):
        arguments = {"step": number, "stage": stage_label(stage), **plain(step)}
        builder.slice(lane.track, _step_title(number, step), start, step.seconds, arguments)
        start += step.seconds


def _add_compiles(builder: _Builder, lanes: _Lanes, compiles: Sequence[CompileRecord]) -> None:
    for compiled in sorted(compiles, key=lambda record: record.finished_unix_seconds - record.seconds):
        start = compiled.finished_unix_seconds - compiled.seconds
        lane = lanes.free(start)
        start = lane.take(start, compiled.finished_unix_seconds)
        builder.begin(lane.track, compiled.function or "compile", start, plain(compiled))
        builder.end(lane.track, compiled.finished_unix_seconds)


def _add_memory(
    builder: _Builder,
    root: int,
    names: tuple[str, str],
    stages: Sequence[StageReport],
    usage_of: Callable[[StageReport], HbmUsage | HostMemory | None],
) -> None:
    """What was in use, and the peak: that of a part is in its parent's, if that has one."""
    used, peak = builder.counter(names[0], root, _USED), builder.counter(names[1], root, _PEAK)
    points: list[tuple[float, int, int]] = []
    for position, stage in enumerate(stages):
        if (usage := usage_of(stage)) is None:
            continue
        ends = [(stage.started_unix_seconds, usage.before_bytes)]
        if stage.seconds is not None:
            ends.append((stage.started_unix_seconds + stage.seconds, usage.after_bytes))
        points += [(at, used, size_bytes) for at, size_bytes in ends]
        parent = parent_of(stages, position)
        if parent is None or usage_of(stages[parent]) is None:
            points += [(at, peak, usage.peak_bytes) for at, _ in ends]
    for unix_seconds, track, value in sorted(points, key=lambda point: point[0]):
        builder.count(track, unix_seconds, value)


def _usage_of(device: str, stage: StageReport) -> HbmUsage | None:
    return next((usage for usage in stage.hbm if usage.device == device), None)


@dataclass
class _Lane:
    """A track, or what is left of a slice in it, and until when it is taken."""

    track: int
    taken_until: float

    def is_free(self, unix_seconds: float) -> bool:
        """Whether something may begin there then."""
        return self.taken_until <= unix_seconds + _CLOCK_SECONDS

    def take(self, start: float, end: float | None) -> float:
        """Takes it until then (None: for ever); when what takes it may begin."""
        start = max(start, self.taken_until)
        self.taken_until = math.inf if end is None else max(start, end)
        return start


class _Lanes:
    """Tracks of one name, as many as it takes to have what overlaps apart: slices of one track must nest."""

    def __init__(self, builder: _Builder, root: int, name: str) -> None:
        self._builder, self._root, self._name = builder, root, name
        self._lanes = [_Lane(builder.track(name, root), 0.0)]

    def free(self, unix_seconds: float) -> _Lane:
        """The first that is free then."""
        lane = next((lane for lane in self._lanes if lane.is_free(unix_seconds)), None)
        if lane is None:
            first = self._lanes[0].track
            track = self._builder.track(self._name, self._root, beside=first)
            lane = _Lane(track, 0.0)
            self._lanes.append(lane)
        return lane


class _Builder:
    """Tracks and events in Perfetto's terms, over its own builder of protos."""

    def __init__(self, start_nanoseconds: int) -> None:
        self._builder = TraceProtoBuilder()
        self._tracks = itertools.count(1)
        snapshot = self._builder.add_packet().clock_snapshot  # the viewer shows times of day with it
        for clock in (BUILTIN_CLOCK_BOOTTIME, BUILTIN_CLOCK_REALTIME):
            snapshot.clocks.add(clock_id=clock, timestamp=start_nanoseconds)

    def track(self, name: str, parent: int | None = None, beside: int | None = None, **fields: Any) -> int:
        """A new track, below those that its parent has already, or right below one of them; its uuid."""
        uuid = next(self._tracks)
        descriptor = self._builder.add_packet().track_descriptor
        descriptor.MergeFrom(
            TrackDescriptor(
                uuid=uuid,
                parent_uuid=parent,
                name=name,
                child_ordering=TrackDescriptor.EXPLICIT,
                sibling_order_rank=_MOST_TRACKS * (beside or uuid) + (uuid if beside else 0),
                **fields,
            )
        )
        return uuid

    def counter(self, name: str, parent: int, description: str) -> int:
        """A new track of a counter in bytes; its uuid."""
        unit = CounterDescriptor(unit=CounterDescriptor.UNIT_SIZE_BYTES)
        return self.track(name, parent, counter=unit, description=description)

    def slice(
        self,
        track: int,
        name: str,
        start_unix_seconds: float,
        seconds: float | None,
        arguments: Mapping[str, Any],
    ) -> None:
        """Something that took its time; without `seconds` it has no end."""
        self.begin(track, name, start_unix_seconds, arguments)
        if seconds is not None:
            self.end(track, start_unix_seconds + seconds)

    def begin(self, track: int, name: str, unix_seconds: float, arguments: Mapping[str, Any]) -> None:
        """Something begins; what begins before it ends, in the same track, is within it."""
        event = self._event(track, unix_seconds, TrackEvent.TYPE_SLICE_BEGIN)
        event.name = name
        event.debug_annotations.extend(_annotations(arguments))

    def end(self, track: int, unix_seconds: float) -> None:
        """What began last in the track, and has not ended, ends."""
        self._event(track, unix_seconds, TrackEvent.TYPE_SLICE_END)

    def count(self, track: int, unix_seconds: float, value: int) -> None:
        """The counter's value from then on."""
        self._event(track, unix_seconds, TrackEvent.TYPE_COUNTER).counter_value = value

    def serialize(self) -> bytes:
        """The whole trace."""
        trace: bytes = self._builder.serialize()
        return trace

    def _event(self, track: int, unix_seconds: float, kind: TrackEvent.Type) -> TrackEvent:
        packet = self._builder.add_packet()
        packet.timestamp = max(0, round(unix_seconds * 1e9))
        packet.trusted_packet_sequence_id = _SEQUENCE
        event = packet.track_event
        event.type, event.track_uuid = kind, track
        return event


def _annotations(values: Mapping[str, Any]) -> list[DebugAnnotation]:
    """What is None is left out; mappings and lists nest."""
    return [_annotation(value, name) for name, value in values.items() if value not in (None, [], {})]


def _annotation(value: Any, name: str | None = None) -> DebugAnnotation:
    if isinstance(value, Mapping):
        return DebugAnnotation(name=name, dict_entries=_annotations(value))
    if isinstance(value, list):
        return DebugAnnotation(name=name, array_values=[_annotation(item) for item in value])
    if isinstance(value, bool):
        return DebugAnnotation(name=name, bool_value=value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return DebugAnnotation(name=name, int_value=value)
    if isinstance(value, float):
        return DebugAnnotation(name=name, double_value=value)
    return DebugAnnotation(name=name, string_value=str(value))


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _step_title(number: int, step: StepRecord) -> str:
    marks = (
        ["cached"] * (step.kind == CACHED)
        + ["compiled"] * step.compiled
        + ["not finite"] * (step.finite is False)
    )
    return f"step {number}" + (f" ({', '.join(marks)})" if marks else "")
