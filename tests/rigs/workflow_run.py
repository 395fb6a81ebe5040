"""The report of a workflow's run, with all that one may have: made by hand, to the second."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from crystools_tpu.telemetry import (
    Device,
    Event,
    HbmUsage,
    HostMemory,
    Node,
    Process,
    Ratio,
    RunReport,
    StageFinished,
    StageName,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
    StepRecord,
    StepSeconds,
)
from crystools_tpu.telemetry.events import FIRST

GIB: Final = 1024**3
START: Final = 1_700_000_000.0


def stage(
    name: StageName, component: str | None, begins: float, seconds: float | None, **more: Any
) -> StageReport:
    """A stage that began so many seconds after its run, and did nothing but take its time."""
    return StageReport(
        name=name,
        component=component,
        status=more.pop("status", Status.SUCCEEDED),
        error=more.pop("error", None),
        started_unix_seconds=START + begins,
        seconds=seconds,
        **{
            "compile_seconds": 0.0,
            "compile_cache": None,
            "compiles": (),
            "recompiles": 0,
            "recompile_reasons": (),
            "steps_total": None,
            "steps": (),
            "step_seconds": None,
            "first_nonfinite_step": None,
            "flops": None,
            "flops_method": None,
            "mfu": None,
            "mbu": None,
            "bound": None,
            "hbm": (),
            **more,
        },
    )


def node(
    id_: str, class_type: str, begins: float, seconds: float | None, title: str | None = None, **more: Any
) -> StageReport:
    """A node of a workflow."""
    return stage(StageName.NODE, class_type, begins, seconds, node=Node(id_, class_type, title), **more)


def cuda(before: int, peak: int, after: int) -> tuple[HbmUsage, ...]:
    """What torch says of its one device, in GiB."""
    return (HbmUsage("cuda:0", before * GIB, peak * GIB, after * GIB, 24 * GIB, "torch_memory_stats"),)


SAMPLED: Final = (StepRecord(5.0, False, None, FIRST), *(StepRecord(0.75, False, None) for _ in range(20)))
DENOISED: Final = tuple(StepRecord(2.25, False, True) for _ in range(20))

STAGES: Final = (
    node(
        "4", "CheckpointLoaderSimple", 0.0, 4.0,
        hbm=cuda(0, 6, 6), host_memory=HostMemory(GIB, 9 * GIB, 3 * GIB),
    ),
    node(
        "3", "KSampler", 4.0, 20.0, "Second pass",
        steps=SAMPLED, steps_total=21, step_seconds=StepSeconds(0.75, 0.75, 0.75, 0.75),
        hbm=cuda(6, 11, 7), host_memory=HostMemory(3 * GIB, 3 * GIB, 3 * GIB),
    ),
    node("7", "Wan21TPUSampler", 24.0, 60.0),
    stage(StageName.LOAD, "transformer", 25.0, 10.0, parent=2, pipeline="wan2.1-t2v"),
    stage(
        StageName.DENOISE, "transformer", 35.0, 45.0, parent=2, pipeline="wan2.1-t2v",
        steps=DENOISED, steps_total=20, step_seconds=StepSeconds(2.25, 2.25, 2.25, 2.25),
        mfu=Ratio(0.375, 3.0, 8.0, "flop", "architecture"),
        hbm=(HbmUsage("tpu:0", 10 * GIB, 20 * GIB, 12 * GIB, 31 * GIB, "memory_stats"),),
    ),
    node("9", "LoopOfSomebody", 84.0, 6.0),
    node("9.0.1", "ImageScale", 84.5, 2.0, parent=5),
    node("9.0.2", "ImageScale", 88.0, 3.0, parent=5),  # another node ran in between: its parent's time stood
    node("20", "FetchOfSomebody", 86.5, 10.0),
    node("21", "FetchOfSomebody", 91.0, 9.0),
)  # fmt: skip

WORKFLOW: Final = RunReport(
    run_id="77aa88bb77aa88bb77aa88bb77aa88bb",
    pipeline="comfyui",
    model_id=None,
    params={"prompt": "a cat on a surfboard", "workflow": "5d41402a", "nodes_cached": 3},
    status=Status.SUCCEEDED,
    error=None,
    started_at="2023-11-14T22:13:20.000+00:00",
    started_unix_seconds=START,
    total_seconds=100.0,
    output=None,
    device=Device("tpu", "TPU v6 lite", 8, 8, (), 918e12, "chip table", 32 * GIB, 1638e9),
    stages=STAGES,
    name="two passes",
    process=Process(4242, "anna", "comfyui"),
    nodes_total=9,
    cached_nodes=(
        Node("5", "VAELoader", None),
        Node("6", "CLIPTextEncode", None),
        Node("8", "CLIPTextEncode", "Negative"),
    ),
)  # fmt: skip
"""A loader, a KSampler, one of our samplers, a loop that expands, two nodes at once, three cached ones."""


def events_of_node(run_id: str, position: int, stage: StageReport) -> list[Event]:
    """A node's beginning, steps and end."""
    begun = dataclasses.replace(stage, status=Status.RUNNING, seconds=None, steps=(), step_seconds=None)
    said = (run_id, "comfyui", position)
    steps = [
        StepFinished(*said, stage.name, number, record, stage.steps_total, None, None, None, None)
        for number, record in enumerate(stage.steps)
    ]
    return [StageStarted(run_id, position, begun), *steps, StageFinished(*said, stage)]


def with_nan(report: RunReport, step: int = 12) -> RunReport:
    """The same run, in which the output of the denoising was not finite from that step on."""
    return dataclasses.replace(
        report,
        stages=tuple(
            dataclasses.replace(each, first_nonfinite_step=step) if each.name is StageName.DENOISE else each
            for each in report.stages
        ),
    )
