"""A run as a trace file for Perfetto's viewer: stages, steps, compiles and the memory of each device.

    Path("run.pftrace").write_bytes(perfetto_trace(report))

What is not known has no event: a run or stage without an end is drawn open, and the moment of a memory peak
within its stage, which no report has, is not guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
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
from crystools_tpu.telemetry import CompileRecord, RunReport, StageReport, StepRecord
from crystools_tpu.telemetry.events import plain

_SEQUENCE: Final = 1

_PEAK: Final = "The peak of each stage, held over the stage: when within it the peak was is not known."
_HBM: Final = "Memory in use where a stage began and where it ended; what lies between was not recorded."


def perfetto_trace(report: RunReport) -> bytes:
    """The run as a serialized Perfetto trace; valid however far the run has come.

    Times are the report's own times of day, in nanoseconds since 1970. Parameters go along without prompts.
    """
    builder = _Builder(round(report.started_unix_seconds * 1e9))
    root = builder.track(report.pipeline)
    arguments = {**plain(report), "params": plain(shareable_params(report))}
    arguments = _without(arguments, "stages", "content_params")
    builder.slice(root, "run", report.started_unix_seconds, report.total_seconds, arguments)
    stages, steps = builder.track("Stages", root), builder.track("Steps", root)
    for stage in report.stages:
        arguments = _without(plain(stage), "steps", "compiles", "hbm")
        builder.slice(stages, _stage_title(stage), stage.started_unix_seconds, stage.seconds, arguments)
        _add_steps(builder, steps, stage)
    _add_compiles(builder, root, [compiled for stage in report.stages for compiled in stage.compiles])
    for device in dict.fromkeys(usage.device for stage in report.stages for usage in stage.hbm):
        _add_memory(builder, root, device, report.stages)
    return builder.serialize()


def _add_steps(builder: _Builder, track: int, stage: StageReport) -> None:
    """Steps follow each other from the stage's beginning: each ends where the device finished it."""
    start = stage.started_unix_seconds
    for number, step in enumerate(stage.steps):
        arguments = {"step": number, "stage": _stage_title(stage), **plain(step)}
        builder.slice(track, _step_title(number, step), start, step.seconds, arguments)
        start += step.seconds


def _add_compiles(builder: _Builder, root: int, compiles: Sequence[CompileRecord]) -> None:
    """Compiles that overlap lie in tracks of the same name, for slices of one track must nest."""
    tracks: list[tuple[int, float]] = []
    for compiled in sorted(compiles, key=lambda record: record.finished_unix_seconds - record.seconds):
        start = compiled.finished_unix_seconds - compiled.seconds
        free = next((i for i, (_, end) in enumerate(tracks) if end <= start), len(tracks))
        track = tracks[free][0] if free < len(tracks) else builder.track("Compiles", root)
        tracks[free : free + 1] = [(track, compiled.finished_unix_seconds)]
        builder.slice(track, compiled.function or "compile", start, compiled.seconds, plain(compiled))


def _add_memory(builder: _Builder, root: int, device: str, stages: Sequence[StageReport]) -> None:
    used = builder.counter(f"HBM {device}", root, _HBM)
    peak = builder.counter(f"HBM peak {device}", root, _PEAK)
    for stage in stages:
        for usage in (usage for usage in stage.hbm if usage.device == device):
            builder.count(used, stage.started_unix_seconds, usage.before_bytes)
            builder.count(peak, stage.started_unix_seconds, usage.peak_bytes)
            if stage.seconds is not None:
                end = stage.started_unix_seconds + stage.seconds
                builder.count(used, end, usage.after_bytes)
                builder.count(peak, end, usage.peak_bytes)


class _Builder:
    """Tracks and events in Perfetto's terms, over its own builder of protos."""

    def __init__(self, start_nanoseconds: int) -> None:
        self._builder = TraceProtoBuilder()
        self._tracks = itertools.count(1)
        snapshot = self._builder.add_packet().clock_snapshot  # the viewer shows times of day with it
        for clock in (BUILTIN_CLOCK_BOOTTIME, BUILTIN_CLOCK_REALTIME):
            snapshot.clocks.add(clock_id=clock, timestamp=start_nanoseconds)

    def track(self, name: str, parent: int | None = None, **fields: Any) -> int:
        """A new track, below those that its parent has already; its uuid."""
        uuid = next(self._tracks)
        descriptor = self._builder.add_packet().track_descriptor
        descriptor.MergeFrom(
            TrackDescriptor(
                uuid=uuid,
                parent_uuid=parent,
                name=name,
                child_ordering=TrackDescriptor.EXPLICIT,
                sibling_order_rank=uuid,
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
        event = self._event(track, start_unix_seconds, TrackEvent.TYPE_SLICE_BEGIN)
        event.name = name
        event.debug_annotations.extend(_annotations(arguments))
        if seconds is not None:
            self._event(track, start_unix_seconds + seconds, TrackEvent.TYPE_SLICE_END)

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


def _stage_title(stage: StageReport) -> str:
    return stage.name if stage.component is None else f"{stage.name} {stage.component}"


def _step_title(number: int, step: StepRecord) -> str:
    marks = ["compiled"] * step.compiled + ["not finite"] * (step.finite is False)
    return f"step {number}" + (f" ({', '.join(marks)})" if marks else "")
