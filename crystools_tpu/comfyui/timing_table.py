"""Several reports as one table: a group for each node that hands one on, its stages in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from crystools_tpu.telemetry import (
    CompileCache,
    HbmUsage,
    Node,
    RunReport,
    StageName,
    StageReport,
    Status,
    forecast_warning,
)
from crystools_tpu.telemetry.recorder import report_begun

_CACHES: Final = (CompileCache.MISS, CompileCache.OFF, CompileCache.HIT)
"""Of several compiles the one that says most of what they took."""


class Graph(Protocol):
    """ComfyUI's `DynamicPrompt`."""

    def get_node(self, node_id: str) -> Mapping[str, Any]:
        """The node as a prompt has it. Raises an error where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """What arrived at an input, and the node that it came from, where that is known."""

    report: RunReport
    node: Node | None = None


def sources_of(graph: Graph | None, node_id: str | None) -> dict[str, Node]:
    """By the names of its inputs, the nodes that are connected to this one."""
    if graph is None or node_id is None:
        return {}
    links = {name: link for name, link in graph.get_node(node_id)["inputs"].items() if isinstance(link, list)}
    nodes = {name: (str(source), graph.get_node(str(source))) for name, (source, _) in links.items()}
    return {name: _node(id_, described) for name, (id_, described) in nodes.items()}


def _node(node_id: str, described: Mapping[str, Any]) -> Node:
    title = described.get("_meta", {}).get("title")
    return Node(node_id, described["class_type"], title or None)


def together(timings: Sequence[Timing]) -> RunReport:
    """One report of all of them: each is a stage with its own in it, or that one where it has no other.

    The seconds of the whole are the sum: that of a node whose output was cached may be from hours ago.
    """
    stages: list[StageReport] = []
    for timing in timings:
        stages += _group(timing, len(stages))
    reports = [timing.report for timing in timings]
    seconds = [report.total_seconds for report in reports]
    first = reports[0]
    return dataclasses.replace(
        first,
        pipeline=", ".join(dict.fromkeys(report.pipeline for report in reports)),
        name=None,
        status=next((r.status for r in reports if r.status is not Status.SUCCEEDED), Status.SUCCEEDED),
        total_seconds=None if None in seconds else sum(filter(None, seconds)),
        stages=tuple(stages),
        warnings=tuple(dict.fromkeys(text for report in reports for text in _warnings(report))),
        forecast=None,
        cached_nodes=tuple(dict.fromkeys(node for report in reports for node in report.cached_nodes)),
    )


def _group(timing: Timing, position: int) -> Iterable[StageReport]:
    report = timing.report
    if timing.node is not None and len(report.stages) == 1 and report.stages[0].node is None:
        return (dataclasses.replace(report.stages[0], node=timing.node),)
    node = timing.node or Node(report.run_id, report.pipeline, report.name)
    return (_sum(report, node), *(_within(stage, position) for stage in report.stages))


def _within(stage: StageReport, position: int) -> StageReport:
    parent = position if stage.parent is None else position + 1 + stage.parent
    return dataclasses.replace(stage, parent=parent)


def _sum(report: RunReport, node: Node) -> StageReport:
    """A node as a stage: its whole time, all compiles in it, and the peak of each device."""
    caches = {stage.compile_cache for stage in report.stages}
    peaks: dict[str, HbmUsage] = {}
    for use in (use for stage in report.stages for use in stage.hbm):
        if use.device not in peaks or use.peak_bytes > peaks[use.device].peak_bytes:
            peaks[use.device] = use
    begun = report_begun(StageName.NODE, node.class_type, report.started_unix_seconds, node=node)
    return dataclasses.replace(
        begun,
        status=report.status,
        error=report.error,
        seconds=report.total_seconds,
        compile_seconds=sum(stage.compile_seconds for stage in report.stages),
        compile_cache=next((cache for cache in _CACHES if cache in caches), None),
        hbm=tuple(peaks.values()),
    )


def _warnings(report: RunReport) -> Iterable[str]:
    unfitting = None if report.forecast is None else forecast_warning(report.forecast)
    return (*([unfitting] if unfitting else []), *report.warnings)
