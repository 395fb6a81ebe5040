"""Runs of workflows as a server tells of them: put together by hand, for no node is executed here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any, cast

from crystools_tpu.telemetry.events import (
    FIRST,
    FULL,
    HbmUsage,
    HostMemory,
    Node,
    Process,
    RunFinished,
    RunReport,
    RunStarted,
    StageName,
    StageProgress,
    StageReport,
    Status,
    StepRecord,
    StepSeconds,
)
from tests.web.scenes import EPOCH, GIB, Scene

PROMPT = "A cat in a space suit walks through a neon market in the rain"


IN_PROGRESS = StageProgress(
    eta_seconds=70.0,
    eta_by_forecast=False,
    step_seconds=None,
    first_nonfinite_step=None,
    compile_seconds=0.0,
    compile_cache=None,
    recompiles=0,
    recompile_reasons=(),
    mfu=None,
    mbu=None,
    bound=None,
    bytes_done=None,
    bytes_per_second=None,
    run_eta_seconds=200.0,
    run_eta_by="history",
)
"""Of a running stage: 70 s of it are to go, and 200 s of the run."""


@dataclass
class Workflow:
    """A run that its nodes are added to, one after the other."""

    name: str | None = "Cat in the rain"
    run_id: str = "workflow"
    device: str = "cuda:0"
    seconds: float = 0.0
    stages: list[StageReport] = field(default_factory=list)
    cached: tuple[Node, ...] = ()

    def node(
        self,
        class_type: str,
        seconds: float,
        *,
        title: str | None = None,
        steps: int = 0,
        steps_total: int | None = None,
        node_id: str | None = None,
        parent: int | None = None,
        at: float | None = None,
        status: Status = Status.SUCCEEDED,
        error: str | None = None,
    ) -> int:
        """Adds a node, and gives its position; one within another (`parent`) takes none of the run's time."""
        position = len(self.stages)
        known = Node(node_id or str(position + 1), class_type, title)
        start = self.seconds if at is None else at
        records = tuple(StepRecord(seconds / steps, False, None, FULL if n else FIRST) for n in range(steps))
        peak = int((2 + 0.7 * seconds % 9) * GIB)
        stage = _stage(
            StageName.NODE,
            class_type,
            start,
            seconds,
            status,
            error=error,
            steps=records,
            steps_total=steps_total if steps_total is not None else steps or None,
            hbm=(HbmUsage(self.device, 2 * GIB, peak, 3 * GIB, 24 * GIB, "torch_memory_stats"),),
            parent=parent,
            node=known,
            host_memory=HostMemory(int(8.1 * GIB), int(12.4 * GIB), int(12.3 * GIB)),
        )
        self.stages.append(stage)
        if parent is None and at is None:
            self.seconds += seconds
        return position

    def within(
        self,
        parent: int,
        name: StageName,
        start: float,
        seconds: float,
        *,
        component: str | None = None,
        steps: int = 0,
        nan_at: int | None = None,
        status: Status = Status.SUCCEEDED,
    ) -> int:
        """Adds a stage of one of our models within a node; `start` is from the node's own."""
        records = tuple(
            StepRecord(seconds / steps, False, nan_at is None or number < nan_at) for number in range(steps)
        )
        begin = self.stages[parent].started_unix_seconds - EPOCH + start
        stage = _stage(name, component, begin, seconds, status, steps=records, steps_total=steps or None)
        self.stages.append(replace(stage, parent=parent, pipeline="wan2.1-t2v", first_nonfinite_step=nan_at))
        return len(self.stages) - 1

    def report(
        self,
        status: Status = Status.SUCCEEDED,
        *,
        total: int | None = None,
        progress: StageProgress | None = None,
        process: Process | None = None,
        error: str | None = None,
        seconds: float | None = None,
    ) -> RunReport:
        """The run as far as it is; `total` are the nodes that the workflow has."""
        executed = sum(stage.node is not None and stage.parent is None for stage in self.stages)
        ended = None if status is Status.RUNNING else self.seconds if seconds is None else seconds
        return RunReport(
            run_id=self.run_id,
            pipeline="comfyui",
            model_id=None,
            params={"prompt": PROMPT, "width": 1280, "height": 720, "workflow": "3f2a", "nodes_cached": 0},
            status=status,
            error=error,
            started_at="2026-09-21T14:13:20Z",
            started_unix_seconds=EPOCH,
            total_seconds=ended,
            output=None,
            device=None,
            stages=tuple(self.stages),
            progress=progress,
            name=self.name,
            process=process,
            nodes_total=executed + len(self.cached) if total is None else total,
            cached_nodes=self.cached,
        )


def _stage(
    name: StageName,
    component: str | None,
    start: float,
    seconds: float,
    status: Status,
    *,
    error: str | None = None,
    steps: tuple[StepRecord, ...] = (),
    steps_total: int | None = None,
    hbm: tuple[HbmUsage, ...] = (),
    parent: int | None = None,
    node: Node | None = None,
    host_memory: HostMemory | None = None,
) -> StageReport:
    times = sorted(step.seconds for step in steps)
    return StageReport(
        name=name,
        component=component,
        status=status,
        error=error,
        started_unix_seconds=EPOCH + start,
        seconds=None if status is Status.RUNNING else seconds,
        compile_seconds=0.0,
        compile_cache=None,
        compiles=(),
        recompiles=0,
        recompile_reasons=(),
        steps_total=steps_total,
        steps=steps,
        step_seconds=StepSeconds(times[len(times) // 2], times[-1], times[0], times[-1]) if times else None,
        first_nonfinite_step=None,
        flops=None,
        flops_method=None,
        mfu=None,
        mbu=None,
        bound=None,
        hbm=hbm,
        parent=parent,
        node=node,
        host_memory=host_memory,
    )


def text_to_image(*, steps: int = 20, name: str | None = "Cat in the rain") -> Workflow:
    """Eight nodes; with fewer than 20 steps the sampler runs, and three are to come."""
    flow = Workflow(name)
    flow.node("CheckpointLoaderSimple", 3.2)
    flow.node("CLIPTextEncode", 0.41, title="What is to be seen")
    flow.node("CLIPTextEncode", 0.02, title="What is not")
    flow.node("EmptyLatentImage", 0.004)
    done = steps == 20
    flow.node(
        "KSampler",
        0.9 * steps,
        steps=steps,
        steps_total=20,
        status=Status.SUCCEEDED if done else Status.RUNNING,
    )
    if done:
        flow.node("VAEDecode", 1.7)
        flow.node("ImageScale", 0.11)
        flow.node("SaveImage", 0.35)
    return flow


def text_to_video(*, nan_at: int | None = None) -> Workflow:
    """A node of one of our models, with its stages, between two others; four nodes are in cache."""
    flow = Workflow("Wan 2.1 by night", device="tpu:0")
    flow.cached = tuple(
        Node(str(100 + number), class_type, None)
        for number, class_type in enumerate(("CLIPTextEncode", "CLIPTextEncode", "LoadImage", "VAELoader"))
    )
    encoder = flow.node("Wan21TPUTextEncoder", 16.0)
    flow.within(encoder, StageName.LOAD, 0.1, 9.4, component="text_encoder")
    flow.within(encoder, StageName.TEXT_ENCODE, 9.6, 6.3)
    sampler = flow.node("Wan21TPUSampler", 112.0, title="The sampler", steps=20)
    flow.within(sampler, StageName.LOAD, 0.2, 21.8, component="transformer")
    flow.within(sampler, StageName.DENOISE, 22.0, 90.0, steps=20, nan_at=nan_at)
    decoder = flow.node("Wan21TPUVAEDecoder", 9.2)
    flow.within(decoder, StageName.VAE_DECODE, 0.1, 9.0)
    flow.node("CreateVideo", 0.3)
    flow.node("SaveVideo", 3.1)
    return flow


CLASSES = (
    ("CLIPTextEncode", 0.4),
    ("KSampler", 6.1),
    ("VAEDecode", 0.8),
    ("ImageScale", 0.05),
    ("SaveImage", 0.2),
    ("LoraLoader", 0.31),
    ("MathExpression", 0.0004),
)


def many_nodes(count: int, *, run_id: str = "many") -> Workflow:
    """A workflow of `count` nodes of seven classes, of which every sampler has 20 steps."""
    flow = Workflow("Contact sheet", run_id)
    for number, (class_type, seconds) in enumerate(islice(cycle(CLASSES), count)):
        steps = 20 if class_type == "KSampler" else 0
        flow.node(class_type, seconds * (1 + number % 3 / 10), steps=steps)
    return flow


def begun_at(unix_seconds: float, report: RunReport) -> RunReport:
    """The same run at another time."""
    later = unix_seconds - report.started_unix_seconds
    stages = tuple(
        replace(stage, started_unix_seconds=stage.started_unix_seconds + later) for stage in report.stages
    )
    return replace(report, started_unix_seconds=unix_seconds, stages=stages)


@dataclass(frozen=True)
class _Recorded:
    """As the history has a run."""

    report: RunReport


def tell(scene: Scene, report: RunReport) -> None:
    """The scene's server hears of the run, and keeps it once it has ended."""
    if report.status is Status.RUNNING:
        scene.bus.publish(RunStarted(report))
    else:
        scene.history.add(cast(Any, _Recorded(report)))
        scene.bus.publish(RunFinished(report))
