"""A run's report as a trace, read back through Perfetto's own proto."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import CounterDescriptor, DebugAnnotation, Trace

from crystools_exporters.perfetto import perfetto_trace
from crystools_tpu.telemetry import (
    CompileCache,
    CompileRecord,
    RunReport,
    StageName,
    StageReport,
    Status,
    StepRecord,
)
from crystools_tpu.telemetry.events import Params
from tests.exporters.conftest import GIB, REPORT, STAGE
from tests.rigs.suspects import SUSPECTS
from tests.rigs.workflow_run import STAGES, WORKFLOW, node, with_nan
from tests.rigs.workflow_run import START as WORKFLOW_START

START = 1_700_000_000
SECOND = 1_000_000_000

LOAD = dataclasses.replace(
    STAGE,
    name=StageName.LOAD,
    component="transformer",
    started_unix_seconds=START + 1.0,
    seconds=9.0,
    compiles=(),
    steps_total=None,
    flops=None,
    mfu=None,
    mbu=None,
    hbm=(),
)
DENOISE = dataclasses.replace(
    STAGE,
    started_unix_seconds=START + 10.0,
    seconds=43.0,
    steps=(
        StepRecord(34.0, compiled=True, finite=True),
        StepRecord(4.5, compiled=False, finite=True),
        StepRecord(4.0, compiled=False, finite=False),
    ),
    compiles=(
        CompileRecord("jit(schedule)", START + 11.0, 1.0, CompileCache.HIT, None),
        CompileRecord("jit(step)", START + 41.0, 30.0, CompileCache.MISS, "at latents, now bf16[4]"),
    ),
    first_nonfinite_step=2,
)
RUN = dataclasses.replace(REPORT, total_seconds=53.5, stages=(LOAD, DENOISE))


@dataclass
class Slice:
    """One slice: its name, when it began and ended in nanoseconds (None: it is open), and its arguments."""

    name: str
    begin: int
    end: int | None
    arguments: dict[str, Any]


@dataclass
class Track:
    """One track as the viewer finds it."""

    name: str
    parent: str | None
    unit: int | None
    slices: list[Slice] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)


def tracks_of(report: RunReport) -> list[Track]:
    """The tracks of a report's trace, with what lies in them."""
    tracks: dict[int, Track] = {}
    open_slices: dict[int, list[Slice]] = {}
    for packet in Trace.FromString(perfetto_trace(report)).packet:
        if packet.HasField("track_descriptor"):
            descriptor = packet.track_descriptor
            parent = tracks[descriptor.parent_uuid].name if descriptor.HasField("parent_uuid") else None
            unit = descriptor.counter.unit if descriptor.HasField("counter") else None
            tracks[descriptor.uuid] = Track(descriptor.name, parent, unit)
        elif packet.HasField("track_event"):
            event = packet.track_event
            track, stack = tracks[event.track_uuid], open_slices.setdefault(event.track_uuid, [])
            if event.type == event.TYPE_COUNTER:
                track.counts.append((packet.timestamp, event.counter_value))
            elif event.type == event.TYPE_SLICE_BEGIN:
                begun = Slice(event.name, packet.timestamp, None, arguments_of(event.debug_annotations))
                track.slices.append(begun)
                stack.append(begun)
            else:
                stack.pop().end = packet.timestamp
    return list(tracks.values())


def arguments_of(annotations: Any) -> dict[str, Any]:
    return {annotation.name: value_of(annotation) for annotation in annotations}


def value_of(annotation: DebugAnnotation) -> Any:
    if annotation.dict_entries:
        return arguments_of(annotation.dict_entries)
    if annotation.array_values:
        return [value_of(item) for item in annotation.array_values]
    return getattr(annotation, annotation.WhichOneof("value") or "string_value")


def track(report: RunReport, name: str) -> Track:
    (found,) = (track for track in tracks_of(report) if track.name == name)
    return found


def test_below_the_run_lie_its_stages_steps_compiles_and_memory_in_this_order() -> None:
    named = [(track.name, track.parent) for track in tracks_of(RUN)]
    below = ["Stages", "Steps", "Compiles", "HBM tpu0", "HBM peak tpu0"]
    assert named == [("wan2.1-t2v", None), *((name, "wan2.1-t2v") for name in below)]
    (run,) = track(RUN, "wan2.1-t2v").slices
    assert (run.name, run.begin, run.end) == ("run", START * SECOND, START * SECOND + 53_500_000_000)
    assert run.arguments["model_id"] == "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    assert run.arguments["device"]["kind"] == "TPU v6 lite"


def test_parameters_go_along_without_the_prompt() -> None:
    (run,) = track(RUN, "wan2.1-t2v").slices
    assert run.arguments["params"] == {"seed": 2025}
    assert b"surfboard" not in perfetto_trace(RUN)


def test_texts_that_the_run_calls_its_content_stay_and_whatever_has_prompt_in_its_name() -> None:
    params: Params = {
        "caption": "a cat on a surfboard",
        "prompt_2": "a surfboard",
        "seed": 2**64 - 1,
        "shift": 3.0,
    }
    said = dataclasses.replace(RUN, params=params, content_params=("caption", "seed"))
    (run,) = track(said, "wan2.1-t2v").slices
    assert run.arguments["params"] == {"seed": "18446744073709551615", "shift": 3.0}
    assert b"surfboard" not in perfetto_trace(said)
    assert b"content_params" not in perfetto_trace(said)


def test_a_seed_of_64_bits_is_kept_whole() -> None:
    (run,) = track(dataclasses.replace(RUN, params={"seed": 2**64 - 1}), "wan2.1-t2v").slices
    assert run.arguments["params"] == {"seed": "18446744073709551615"}


def test_the_viewer_can_show_the_time_of_day() -> None:
    (snapshot,) = (p for p in Trace.FromString(perfetto_trace(RUN)).packet if p.HasField("clock_snapshot"))
    realtime, boottime = 1, 6
    clocks = {clock.clock_id: clock.timestamp for clock in snapshot.clock_snapshot.clocks}
    assert clocks == {boottime: START * SECOND, realtime: START * SECOND}


def test_stages_have_their_component_and_ratios_with_what_they_are_made_of() -> None:
    load, denoise = track(RUN, "Stages").slices
    assert (load.name, load.begin, load.end) == (
        "load transformer", (START + 1) * SECOND, (START + 10) * SECOND,
    )  # fmt: skip
    assert "mfu" not in load.arguments
    assert denoise.name == "denoise"
    assert denoise.arguments["mfu"] == {
        "ratio": 0.375, "numerator": 3.0, "denominator": 8.0, "unit": "flop", "method": "architecture",
    }  # fmt: skip
    assert denoise.arguments["compile_cache"] == "miss"


def test_steps_follow_each_other_from_where_their_stage_begins() -> None:
    begin = (START + 10) * SECOND
    steps = track(RUN, "Steps").slices
    assert [(step.name, step.begin - begin, (step.end or 0) - begin) for step in steps] == [
        ("step 0 (compiled)", 0, 34_000_000_000),
        ("step 1", 34_000_000_000, 38_500_000_000),
        ("step 2 (not finite)", 38_500_000_000, 42_500_000_000),
    ]
    assert steps[2].arguments == {
        "step": 2, "stage": "denoise", "seconds": 4.0, "compiled": False, "finite": False,
    }  # fmt: skip


def test_a_step_that_a_step_cache_skipped_says_so() -> None:
    skipped = (StepRecord(0.5, False, True, "cached"), StepRecord(8.0, True, True, "cached"))
    run = dataclasses.replace(RUN, stages=(dataclasses.replace(DENOISE, steps=skipped),))
    names = [step.name for step in track(run, "Steps").slices]
    assert names == ["step 0 (cached)", "step 1 (cached, compiled)"]


def test_compiles_lie_where_they_were_with_cache_and_reason() -> None:
    first, second = track(RUN, "Compiles").slices
    assert (first.name, first.begin, first.end) == (
        "jit(schedule)", (START + 10) * SECOND, (START + 11) * SECOND,
    )  # fmt: skip
    assert (second.begin, second.end) == ((START + 11) * SECOND, (START + 41) * SECOND)
    assert second.arguments["cache"] == "miss"
    assert second.arguments["reason"] == "at latents, now bf16[4]"


def test_compiles_that_overlap_lie_in_tracks_of_their_own() -> None:
    overlapping = (
        CompileRecord("first", START + 20.0, 10.0, CompileCache.MISS, None),
        CompileRecord("second", START + 25.0, 10.0, CompileCache.MISS, None),
        CompileRecord("third", START + 30.0, 8.0, CompileCache.MISS, None),
    )
    run = dataclasses.replace(RUN, stages=(dataclasses.replace(DENOISE, compiles=overlapping),))
    lanes = [track for track in tracks_of(run) if track.name == "Compiles"]
    assert [[slice_.name for slice_ in lane.slices] for lane in lanes] == [["first", "third"], ["second"]]


def test_memory_has_points_where_the_stage_began_and_ended_and_the_peak_is_held_over_it() -> None:
    begin, end = (START + 10) * SECOND, (START + 53) * SECOND
    used, peak = track(RUN, "HBM tpu0"), track(RUN, "HBM peak tpu0")
    assert used.unit == peak.unit == CounterDescriptor.UNIT_SIZE_BYTES
    assert used.counts == [(begin, 10 * GIB), (end, 12 * GIB)]
    assert peak.counts == [(begin, 20 * GIB), (end, 20 * GIB)]


def test_a_run_that_is_still_running_or_was_interrupted_is_open() -> None:
    for status in (Status.RUNNING, Status.INTERRUPTED):
        stage = dataclasses.replace(DENOISE, status=status, seconds=None, steps=DENOISE.steps[:2])
        run = dataclasses.replace(RUN, status=status, total_seconds=None, stages=(LOAD, stage))
        load, denoise = track(run, "Stages").slices
        assert load.end is not None
        assert denoise.end is None
        assert track(run, "wan2.1-t2v").slices[0].end is None
        assert all(step.end is not None for step in track(run, "Steps").slices)
        assert track(run, "HBM tpu0").counts == [((START + 10) * SECOND, 10 * GIB)]


def test_a_failed_run_says_where_and_why() -> None:
    error = "RuntimeError: RESOURCE_EXHAUSTED"
    stage: StageReport = dataclasses.replace(DENOISE, status=Status.FAILED, error=error)
    run = dataclasses.replace(RUN, status=Status.FAILED, error=error, stages=(LOAD, stage))
    assert track(run, "wan2.1-t2v").slices[0].arguments["error"] == error
    assert track(run, "Stages").slices[1].arguments["status"] == "failed"


def test_a_run_without_stages_is_a_trace_too() -> None:
    run = dataclasses.replace(RUN, status=Status.RUNNING, total_seconds=None, device=None, stages=())
    assert [track.name for track in tracks_of(run)] == ["wan2.1-t2v", "Stages", "Steps"]


def drawn(report: RunReport, name: str = "Stages") -> list[list[tuple[str, float, float | None]]]:
    """The slices of each track of that name, in seconds of the run."""

    def seconds(at: int | None) -> float | None:
        return None if at is None else at / SECOND - WORKFLOW_START

    return [
        [(slice_.name, seconds(slice_.begin) or 0.0, seconds(slice_.end)) for slice_ in lane.slices]
        for lane in tracks_of(report)
        if lane.name == name
    ]


def test_what_ran_in_a_node_lies_within_it_and_nodes_that_overlap_in_tracks_of_their_own() -> None:
    """The time of a loop stood while another node ran: it is drawn to the end of its last part."""
    assert drawn(WORKFLOW) == [
        [
            ("CheckpointLoaderSimple", 0, 4),
            ("Second pass", 4, 24),
            ("Wan21TPUSampler", 24, 84),
            ("load transformer", 25, 35),
            ("denoise transformer", 35, 80),
            ("LoopOfSomebody", 84, 91),
            ("ImageScale", 84.5, 86.5),
            ("ImageScale", 88, 91),
            ("FetchOfSomebody", 91, 100),
        ],
        [("FetchOfSomebody", 86.5, 96.5)],
    ]
    assert [len(lane) for lane in drawn(WORKFLOW, "Steps")] == [41]


def test_parts_of_a_node_that_overlap_lie_apart_and_nothing_ends_before_what_is_in_it() -> None:
    loop = (
        node("1", "Loop", 0.0, 1.0),
        node("1.1", "Fetch", 1.0, 5.0, parent=0),
        node("1.2", "Fetch", 2.0, 5.0, parent=0),
        node("1.2.1", "Inner", 3.0, 1.0, parent=2),
        node("2", "Next", 7.0, 1.0),
    )
    assert drawn(dataclasses.replace(WORKFLOW, stages=loop)) == [
        [("Loop", 0, 7), ("Fetch", 1, 6), ("Next", 7, 8)],
        [("Fetch", 2, 7), ("Inner", 3, 4)],
    ]


def test_a_loop_of_a_thousand_iterations_each_in_the_one_before_is_drawn() -> None:
    stages = [node(str(n), "Loop", float(n), None, parent=n - 1 if n else None) for n in range(1000)]
    (lane,) = drawn(dataclasses.replace(WORKFLOW, stages=tuple(stages)))
    assert len(lane) == 1000


def test_a_workflows_trace_says_its_name_its_cached_nodes_and_how_it_ended() -> None:
    (run,) = track(with_nan(WORKFLOW), "comfyui two passes").slices
    assert run.arguments["outcome"] == "succeeded, NaN from step 12"
    assert [cached["class_type"] for cached in run.arguments["cached_nodes"]] == [
        "VAELoader", "CLIPTextEncode", "CLIPTextEncode",
    ]  # fmt: skip
    assert b"surfboard" not in perfetto_trace(WORKFLOW)
    assert "suspect" not in run.arguments
    (suspect,) = track(dataclasses.replace(WORKFLOW, stages=(SUSPECTS["MBU"],)), "comfyui two passes").slices
    assert suspect.arguments["suspect"][0].startswith("denoise transformer: MBU 120.0% cannot be")


def test_memory_of_nodes_is_torchs_and_the_hosts_and_a_part_changes_no_peak() -> None:
    seconds = [
        (at / SECOND - WORKFLOW_START, size // GIB) for at, size in track(WORKFLOW, "VRAM cuda:0").counts
    ]
    assert seconds == [(0, 0), (4, 6), (4, 6), (24, 7)]
    host = [(at / SECOND - WORKFLOW_START, size // GIB) for at, size in track(WORKFLOW, "Host memory").counts]
    assert host == [(0, 1), (4, 3), (4, 3), (24, 3)]
    assert len(track(WORKFLOW, "HBM peak tpu0").counts) == 2, "of the denoising, of whose node none is known"
    usage = STAGES[4].hbm
    known = (*STAGES[:2], dataclasses.replace(STAGES[2], hbm=usage), *STAGES[3:])
    both = dataclasses.replace(WORKFLOW, stages=known)
    assert len(track(both, "HBM tpu0").counts) == 4
    assert [at / SECOND - WORKFLOW_START for at, _ in track(both, "HBM peak tpu0").counts] == [24, 84]
