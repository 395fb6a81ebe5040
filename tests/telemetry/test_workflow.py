"""A workflow's execution as one run: a stage for each node, parts within nodes, ends and errors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crystools_tpu import telemetry
from crystools_tpu.telemetry import Node, NodeFacts, RunReport, StageReport, WorkflowFacts, WorkflowRun
from crystools_tpu.telemetry.node_memory import NodeMemory

from .conftest import Bench

NODES = {
    "1": NodeFacts(Node("1", "CheckpointLoaderSimple", None)),
    "2": NodeFacts(Node("2", "KSampler", "my sampler")),
    "3": NodeFacts(Node("3", "SaveImage", None)),
    "loop": NodeFacts(Node("loop", "WhileLoop", None)),
    "loop.1": NodeFacts(Node("loop.1", "KSampler", None), parent="loop"),
    "loop.2": NodeFacts(Node("loop.2", "VAEDecode", None), parent="loop"),
    "asynchronous": NodeFacts(Node("asynchronous", "CallService", None), overlaps=True),
}


@dataclass
class Workflow:
    """An execution on the bench's clock."""

    bench: Bench
    memory: NodeMemory
    run: WorkflowRun = field(init=False)

    def __post_init__(self) -> None:
        self.run = telemetry.workflow_run(
            "comfyui",
            facts=lambda: WorkflowFacts(
                name="boat",
                params={"workflow": "0a1b"},
                nodes_total=4,
                cached_nodes=(Node("9", "CLIPTextEncode", None),),
            ),
            describe=NODES.__getitem__,
            memory=self.memory,
            bus=self.bench.bus,
            history=self.bench.history,
            clock=self.bench.clock,
        )

    def execute(self, node_id: str, seconds: float) -> None:
        self.run.node_started(node_id)
        self.bench.clock.advance(seconds)
        self.run.node_finished(node_id)

    def ended(self, **how: Any) -> RunReport:
        self.run.finish(**how)
        self.run.join()
        return self.run.report


class Torch:
    """Stands for torch's counters of one GPU."""

    def __init__(self) -> None:
        self.allocated, self.peak = 100, 100
        self.cuda = SimpleNamespace(
            is_initialized=lambda: True,
            device_count=lambda: 1,
            memory_stats=lambda index: {
                "allocated_bytes.all.current": self.allocated,
                "allocated_bytes.all.peak": self.peak,
            },
            get_device_properties=lambda index: SimpleNamespace(total_memory=1000),
        )


@pytest.fixture
def workflow(bench: Bench, tmp_path: Path) -> Workflow:
    """Of a process that uses no device, on a system that tells nothing of its memory."""
    return Workflow(bench, NodeMemory(modules={}, statm=tmp_path / "absent"))


def stage(report: RunReport, node_id: str) -> StageReport:
    return next(stage for stage in report.stages if stage.node is not None and stage.node.id == node_id)


def test_one_run_has_a_stage_for_every_node_that_was_executed(workflow: Workflow) -> None:
    workflow.execute("1", 2.0)
    workflow.execute("2", 5.0)
    report = workflow.ended()
    assert (report.pipeline, report.name, report.status) == ("comfyui", "boat", "succeeded")
    assert report.nodes_total == 4
    assert [node.class_type for node in report.cached_nodes] == ["CLIPTextEncode"]
    assert [(s.name, s.component, s.seconds, s.status) for s in report.stages] == [
        ("node", "CheckpointLoaderSimple", 2.0, "succeeded"),
        ("node", "KSampler", 5.0, "succeeded"),
    ]
    assert report.stages[1].node == Node("2", "KSampler", "my sampler")
    assert report.total_seconds == 7.0
    assert (report.stages[1].mfu, report.stages[1].hbm, report.stages[1].host_memory) == (None, (), None)


def test_the_report_reads_back_as_it_was_written(workflow: Workflow) -> None:
    workflow.execute("2", 5.0)
    report = workflow.ended()
    assert telemetry.report_from_json(json.dumps(telemetry.to_wire(report))) == report


def test_a_quick_node_is_told_by_its_end_alone_and_a_long_one_by_its_start_too(workflow: Workflow) -> None:
    workflow.execute("1", 0.01)
    workflow.run.node_started("2")
    told = [workflow.bench.next("stage_finished"), workflow.bench.next("stage_started")]
    assert [(event.stage, event.report.component) for event in told] == [
        (0, "CheckpointLoaderSimple"),
        (1, "KSampler"),
    ]
    workflow.ended()


def test_progress_makes_steps_of_which_the_first_has_what_came_before_it(workflow: Workflow) -> None:
    clock, run = workflow.bench.clock, workflow.run
    run.node_started("2")
    for number, seconds in enumerate([7.0, 2.0, 2.0, 2.0], 1):
        clock.advance(seconds)
        run.node_progressed("2", number, 4)
    run.node_finished("2")
    sampler = stage(workflow.ended(), "2")
    assert [(step.seconds, step.kind) for step in sampler.steps] == [
        (7.0, "first"),
        (2.0, "full"),
        (2.0, "full"),
        (2.0, "full"),
    ]
    assert sampler.step_seconds is not None
    assert (sampler.step_seconds.median, sampler.step_seconds.max) == (2.0, 2.0)
    assert (sampler.steps_total, sampler.steps_by_kind) == (4, {"first": 1, "full": 3})
    third = [workflow.bench.next("step_finished") for _ in range(3)][2]
    assert (third.pipeline, third.stage_name, third.steps_total, third.eta_seconds) == (
        "comfyui",
        "node",
        4,
        2.0,
    )


def test_a_node_that_says_that_it_begins_has_no_first_step(workflow: Workflow) -> None:
    run = workflow.run
    run.node_started("2")
    workflow.bench.clock.advance(7.0)
    run.node_progressed("2", 0, 2)
    for number in (1, 2):
        workflow.bench.clock.advance(2.0)
        run.node_progressed("2", number, 2)
    run.node_finished("2")
    assert [step.kind for step in stage(workflow.ended(), "2").steps] == ["full", "full"]


def test_steps_that_are_told_at_once_share_their_time_and_bytes_are_no_steps(workflow: Workflow) -> None:
    run, clock = workflow.run, workflow.bench.clock
    run.node_started("2")
    run.node_progressed("2", 0, 4)
    clock.advance(3.0)
    run.node_progressed("2", 3, 4)
    run.node_finished("2")
    run.node_started("1")
    for value, total in ((1_000_000, 7_000_000), (0.25, 1.0), (-1, 4), (5, 4)):
        run.node_progressed("1", value, total)
    run.node_finished("1")
    report = workflow.ended()
    assert [step.seconds for step in stage(report, "2").steps] == [1.0, 1.0, 1.0]
    assert (stage(report, "1").steps, stage(report, "1").steps_total) == ((), None)


def test_a_node_that_counts_anew_goes_on_with_its_steps(workflow: Workflow) -> None:
    run = workflow.run
    run.node_started("2")
    for value, total in ((1, 2), (2, 2), (1, 3), (2, 3)):
        workflow.bench.clock.advance(1.0)
        run.node_progressed("2", value, total)
    run.node_finished("2")
    sampler = stage(workflow.ended(), "2")
    assert [step.kind for step in sampler.steps] == ["first", "full", "first", "full"]
    assert (sampler.steps_total, sampler.steps_by_kind) == (5, {"first": 2, "full": 3})


def test_the_time_of_a_node_that_waits_for_its_lazy_input_stands(workflow: Workflow) -> None:
    run, clock = workflow.run, workflow.bench.clock
    run.node_started("3")
    clock.advance(1.0)
    workflow.execute("1", 10.0)
    run.node_started("3")
    clock.advance(2.0)
    run.node_finished("3")
    report = workflow.ended()
    assert [(s.component, s.seconds) for s in report.stages] == [
        ("SaveImage", 3.0),
        ("CheckpointLoaderSimple", 10.0),
    ]
    assert report.total_seconds == 13.0


def test_what_a_node_expands_into_is_a_part_of_it_and_other_nodes_are_not(workflow: Workflow) -> None:
    workflow.run.node_started("loop")
    workflow.bench.clock.advance(1.0)
    workflow.execute("loop.1", 4.0)
    workflow.execute("1", 10.0)
    workflow.execute("loop.2", 2.0)
    workflow.run.node_finished("loop")
    report = workflow.ended()
    assert [(s.component, s.parent, s.seconds) for s in report.stages] == [
        ("WhileLoop", None, 7.0),
        ("KSampler", 0, 4.0),
        ("CheckpointLoaderSimple", None, 10.0),
        ("VAEDecode", 0, 2.0),
    ]
    assert sum(s.seconds or 0 for s in report.stages if s.parent is None) == report.total_seconds


def test_asynchronous_nodes_overlap(workflow: Workflow) -> None:
    workflow.run.node_started("asynchronous")
    workflow.execute("1", 3.0)
    workflow.bench.clock.advance(1.0)
    workflow.run.node_finished("asynchronous")
    assert [s.seconds for s in workflow.ended().stages] == [4.0, 3.0]


def test_a_cached_node_that_is_finished_without_a_start_is_no_stage(workflow: Workflow) -> None:
    workflow.run.node_finished("1")
    assert workflow.ended().stages == ()


def test_an_error_is_at_its_node_and_at_the_one_that_expanded_into_it(workflow: Workflow) -> None:
    workflow.run.node_started("asynchronous")
    workflow.run.node_started("loop")
    workflow.run.node_started("loop.1")
    workflow.bench.clock.advance(1.0)
    report = workflow.ended(error="ValueError: no such sampler", failed_node="loop")
    assert (report.status, report.error) == ("failed", "ValueError: no such sampler")
    assert [(s.component, s.status, s.error) for s in report.stages] == [
        ("CallService", "cancelled", None),
        ("WhileLoop", "failed", "ValueError: no such sampler"),
        ("KSampler", "failed", "ValueError: no such sampler"),
    ]
    assert workflow.bench.next("run_finished").report == report


def test_an_interrupt_cancels_the_run_at_its_node(workflow: Workflow) -> None:
    workflow.execute("1", 1.0)
    workflow.run.node_started("2")
    report = workflow.ended(cancelled=True, failed_node="2")
    assert report.status == "cancelled"
    assert [s.status for s in report.stages] == ["succeeded", "cancelled"]


def test_a_run_within_a_node_is_a_part_of_the_workflows(workflow: Workflow) -> None:
    clock = workflow.bench.clock
    workflow.run.node_started("2")
    clock.advance(1.0)
    params = {"node": "Wan21TPUSampler", "prompt": "a boat", "height": 480}
    with workflow.bench.run("wan2.1-t2v", model_id="wan", params=params, content_params=["prompt"]) as part:
        with part.stage("denoise", component="transformer", steps=2) as denoise:
            for _ in range(2):
                clock.advance(3.0)
                denoise.step(None)
        part.warn("the prompt is too long")
    workflow.run.node_progressed("2", 2, 2)
    workflow.run.node_finished("2")
    report = workflow.ended()
    assert [(s.component, s.parent, s.pipeline, s.seconds, len(s.steps)) for s in report.stages] == [
        ("KSampler", None, None, 7.0, 0),
        ("transformer", 0, "wan2.1-t2v", 6.0, 2),
    ]
    assert report.params == {"workflow": "0a1b", "prompt": "a boat", "height": 480}
    assert report.content == {"prompt"}
    assert report.model_id == "wan"
    assert report.warnings == ("the prompt is too long",)
    assert len(workflow.bench.history.reports()) == 1
    events = workflow.bench.events.drain()
    assert {event.pipeline for event in events if isinstance(event, telemetry.StepFinished)} == {"wan2.1-t2v"}
    changed = [event for event in events if isinstance(event, telemetry.RunChanged)]
    assert changed[0].report.params["prompt"] == "a boat"
    assert [event.type for event in events].count("run_started") == 1


def test_the_report_of_a_part_has_its_own_stages_alone(workflow: Workflow) -> None:
    workflow.execute("1", 1.0)
    workflow.run.node_started("2")
    with workflow.bench.run("wan2.1-t2v") as part, part.stage("denoise"):
        workflow.bench.clock.advance(3.0)
    assert part.run_id == workflow.run.run_id
    assert (part.report.pipeline, part.report.total_seconds) == ("wan2.1-t2v", 3.0)
    assert [(s.name, s.parent, s.pipeline) for s in part.report.stages] == [("denoise", None, None)]
    workflow.ended()


def test_an_error_in_a_part_ends_its_stage_and_passes(workflow: Workflow) -> None:
    workflow.run.node_started("2")
    with (
        pytest.raises(ValueError, match="broken"),
        workflow.bench.run("wan2.1-t2v") as part,
        part.stage("denoise"),
    ):
        raise ValueError("broken")
    report = workflow.ended(error="ValueError: broken", failed_node="2")
    assert [(s.name, s.status) for s in report.stages] == [("node", "failed"), ("denoise", "failed")]


def test_no_pipeline_reports_a_node(bench: Bench) -> None:
    with bench.run() as run, pytest.raises(ValueError, match="stage 'node' is none of download, load"):
        run.stage("node").__enter__()


def test_a_run_outside_of_any_node_is_one_of_its_own(workflow: Workflow) -> None:
    workflow.execute("1", 1.0)
    with workflow.bench.run("other"):
        pass
    assert [report.pipeline for report in workflow.bench.history.reports()] == ["other", "comfyui"]
    workflow.ended()


def test_a_node_that_cannot_be_described_is_a_stage_all_the_same(
    workflow: Workflow, caplog: pytest.LogCaptureFixture
) -> None:
    workflow.execute("unheard of", 1.0)
    (unknown,) = workflow.ended().stages
    assert (unknown.component, unknown.seconds) == ("unknown", 1.0)
    assert "a workflow's node could not be described" in caplog.text


def test_memory_of_a_node_is_read_by_torchs_own_counters(bench: Bench, tmp_path: Path) -> None:
    torch = Torch()
    statm = tmp_path / "statm"
    statm.write_text("9 2 1 1 0 1 0")
    modules: Any = {"torch": torch}
    workflow = Workflow(bench, NodeMemory(modules=modules, statm=statm, clock=bench.clock))
    workflow.run.node_started("2")
    torch.allocated, torch.peak = 300, 700
    bench.clock.advance(1.0)
    workflow.run.node_finished("2")
    workflow.run.node_started("3")
    torch.allocated = 200
    bench.clock.advance(1.0)
    workflow.run.node_finished("3")
    report = workflow.ended()
    (first,), (second,) = stage(report, "2").hbm, stage(report, "3").hbm
    assert (first.device, first.method, first.limit_bytes) == ("cuda:0", "torch_memory_stats", 1000)
    assert (first.before_bytes, first.peak_bytes, first.after_bytes) == (100, 700, 300)
    assert (second.before_bytes, second.peak_bytes, second.after_bytes) == (300, 300, 200)
    assert second.method == "torch_memory_stats_sampled"
    host = stage(report, "2").host_memory
    assert host is not None
    assert host.before_bytes == host.after_bytes > 0


def test_reading_memory_takes_no_more_than_its_share_of_the_time(bench: Bench, tmp_path: Path) -> None:
    class Slow(Torch):
        def __init__(self) -> None:
            super().__init__()
            self.stats = self.cuda.memory_stats
            self.cuda.memory_stats = self.read_slowly

        def read_slowly(self, index: int) -> Any:
            bench.clock.advance(0.00015)
            return self.stats(index)

    modules: Any = {"torch": Slow()}
    memory = NodeMemory(modules=modules, statm=tmp_path / "absent", clock=bench.clock)
    assert [memory.read() is not None for _ in range(3)] == [True, True, False]
    bench.clock.advance(0.05)
    assert memory.read() is None
    bench.clock.advance(0.1)
    assert memory.read() is not None
    bench.clock.advance(40)
    assert [memory.read() is not None for _ in range(3)] == [True, True, False]
