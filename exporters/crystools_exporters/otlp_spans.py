"""Runs, stages, steps and compiles as OpenTelemetry spans: one trace a run, whose id is the run's.

A stage's spans are made when it has ended, the run's own when it has: spans have an end. Their times are the
report's, not those of the export. A node of a workflow is a stage, with what ran within it below it.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from crystools_exporters.otel_mapping import Attribute, span_attributes
from crystools_exporters.params import shareable_params
from crystools_tpu.telemetry import (
    Event,
    RunFinished,
    RunReport,
    StageFinished,
    StageName,
    StageReport,
    Status,
    outcome,
)
from crystools_tpu.telemetry.events import plain
from crystools_tpu.telemetry.suspicion import suspicions

_SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.SAMPLED)


class RunSpans:
    """Makes the spans of what telemetry events say, for one thread. `processor` takes them as they end."""

    def __init__(self, processor: SpanProcessor, resource: Resource, version: str) -> None:
        self._ids = _GivenIds()
        # By run, for stages that go on: where the last of their parts ended.
        self._parts_ended: dict[str, dict[int, float]] = {}
        self._provider = TracerProvider(
            resource=resource, sampler=ALWAYS_ON, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("crystools_tpu", version)

    def observe(self, event: Event) -> None:
        """Makes the spans of a stage or run that has ended; nothing of other events."""
        match event:
            case StageFinished():
                self._stage(event)
            case RunFinished(report):
                self._run(report)

    def shutdown(self) -> None:
        """Hands on what is left. May wait for a receiver."""
        self._provider.shutdown()

    def _run(self, report: RunReport) -> None:
        self._parts_ended.pop(report.run_id, None)
        left_out = {"stages", "params", "content_params"}
        values = {name: value for name, value in plain(report).items() if name not in left_out}
        values |= {"param": shareable_params(report), "outcome": outcome(report)}
        values["suspect"] = list(suspicions(report))
        start = report.started_unix_seconds
        end = start + (report.total_seconds or 0.0)
        self._span(report.run_id, "run", None, report.pipeline, start, end, values, error_of(report))

    def _stage(self, event: StageFinished) -> None:
        stage, position = event.report, f"stage {event.stage}"
        values = plain(stage)
        del values["steps"], values["compiles"]
        values.pop("parent", None)
        values["steps_done"] = len(stage.steps)
        attributes = {"pipeline": event.pipeline, "run_id": event.run_id, "stage": values}
        above = "run" if stage.parent is None else f"stage {stage.parent}"
        name = stage.component if stage.name is StageName.NODE and stage.component else stage.name
        start, end = stage.started_unix_seconds, self._end_of(event)
        self._span(event.run_id, position, above, name, start, end, attributes, error_of(stage))
        for number, step in enumerate(stage.steps):
            values = {"step": {"number": number, **plain(step)}}
            error = "the output is not finite" if step.finite is False else None
            name = f"{position} step {number}"
            end = start + step.seconds
            self._span(event.run_id, name, position, "step", start, end, values, error)
            start = end
        for number, compiled in enumerate(stage.compiles):
            end = compiled.finished_unix_seconds
            values = {"compile": plain(compiled)}
            name = f"{position} compile {number}"
            start = end - compiled.seconds
            self._span(event.run_id, name, position, "compile", start, end, values, None)

    def _end_of(self, event: StageFinished) -> float:
        """Where it ended, after its parts: its time stood while nodes ran that were none of these."""
        stage = event.report
        ended = self._parts_ended.setdefault(event.run_id, {})
        end = stage.started_unix_seconds + (stage.seconds or 0.0)
        end = max(end, ended.pop(event.stage, end))
        if stage.parent is not None:
            ended[stage.parent] = max(end, ended.get(stage.parent, end))
        return end

    def _span(
        self,
        run_id: str,
        position: str,
        parent: str | None,
        name: str,
        start_unix_seconds: float,
        end_unix_seconds: float,
        values: dict[str, Any],
        error: str | None,
    ) -> None:
        """One span; `position` says which of the run's it is, `parent` the position of the one above it."""
        # A run's id is 32 hexadecimal digits, as a trace's is.
        self._ids.trace_id, self._ids.span_id = int(run_id, 16), span_id_of(run_id, position)
        context = trace.set_span_in_context(trace.INVALID_SPAN)
        if parent is not None:
            above = trace.SpanContext(
                self._ids.trace_id, span_id_of(run_id, parent), is_remote=False, trace_flags=_SAMPLED
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(above))
        attributes: dict[str, Attribute] = span_attributes(values)
        start = round(start_unix_seconds * 1e9)
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=start)
        if error is not None:
            span.set_status(trace.StatusCode.ERROR, error)
        span.end(round(end_unix_seconds * 1e9))


class _GivenIds(IdGenerator):
    """Hands out the ids that were set, so that a span knows its parent's before that one is made."""

    trace_id = trace.INVALID_TRACE_ID
    span_id = trace.INVALID_SPAN_ID

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


def span_id_of(run_id: str, position: str) -> int:
    """An id for the span at that position, never 0, whoever exports the run."""
    digest = hashlib.sha256(f"{run_id} {position}".encode()).digest()
    return int.from_bytes(digest[:8]) or 1


def error_of(report: RunReport | StageReport) -> str | None:
    """What a failed run or stage ended with; to cancel is no error."""
    return report.error or "failed" if report.status is Status.FAILED else None
