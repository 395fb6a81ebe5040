"""The timing nodes: text, JSON and picture of up to eight runs."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import numpy as np
import pytest

from crystools_tpu import telemetry
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS, MissingPackageError
from crystools_tpu.comfyui.timing_nodes import TPUTimingPlot, TPUTimingReport
from crystools_tpu.comfyui.timing_plot import draw
from crystools_tpu.telemetry import (
    CompileCache,
    HbmUsage,
    RunReport,
    StageName,
    StageReport,
    Status,
    StepRecord,
    StepSeconds,
)
from tests.rigs.workflow_run import SAMPLED, WORKFLOW, node

GIB = 2**30


def stage(name: StageName, start: float, seconds: float, **fields: Any) -> StageReport:
    required = [each for each in dataclasses.fields(StageReport) if each.default is dataclasses.MISSING]
    nothing: dict[str, Any] = {each.name: None for each in required}
    known = {
        "name": name,
        "status": Status.SUCCEEDED,
        "started_unix_seconds": 1000 + start,
        "seconds": seconds,
        "compile_seconds": 0.0,
        "recompiles": 0,
        "compiles": (),
        "recompile_reasons": (),
        "steps": (),
        "hbm": (),
    }
    return StageReport(**{**nothing, **known, **fields})


def report(run_id: str = "a", chips: int = 8, stages: int = 2) -> RunReport:
    """A run of Wan2.1 in which the first step compiled."""
    steps = (StepRecord(112.0, True, True), *(StepRecord(4.5, False, True) for _ in range(4)))
    denoise = stage(
        StageName.DENOISE,
        12.5,
        130.0,
        component="transformer",
        compile_seconds=107.5,
        compile_cache=CompileCache.MISS,
        steps=steps,
        step_seconds=StepSeconds(4.5, 4.5, 4.5, 4.5),
        hbm=tuple(
            HbmUsage(f"tpu:{i}", GIB, (20 + i % 8) * GIB, 2 * GIB, 32 * GIB, "memory_stats")
            for i in range(chips)
        ),
    )
    load = stage(StageName.LOAD, 0.0, 12.0, component="transformer")
    return RunReport(
        run_id=run_id,
        pipeline="wan2.1-t2v",
        model_id=None,
        params={"steps": 5},
        status=Status.SUCCEEDED,
        error=None,
        started_at="2026-01-01T00:00:00.000+00:00",
        started_unix_seconds=1000.0,
        total_seconds=143.0,
        output=None,
        device=None,
        stages=(load, denoise)[:stages],
    )


def timing(run_id: str = "a", **options: Any) -> dict[str, Any]:
    return telemetry.to_wire(report(run_id, **options))


def test_eight_timings_may_be_connected_and_none_must() -> None:
    for timing_node in (TPUTimingReport, TPUTimingPlot):
        optional = timing_node.INPUT_TYPES()["optional"]
        assert [(name, type_) for name, (type_, _) in optional.items()] == [
            (f"timing_{i}", "TPU_TIMING") for i in range(1, 9)
        ]
    assert list(TPUTimingPlot.INPUT_TYPES()["required"]) == ["width", "height"]


def test_the_summary_is_the_table_of_stages_and_is_shown_on_the_node() -> None:
    answer = TPUTimingReport().report(timing_1=timing())
    summary, _ = answer["result"]
    assert answer["ui"] == {"text": [summary]}
    rows = [line.split() for line in summary.splitlines()]
    assert rows[0] == ["wan2.1-t2v", "succeeded", "in", "143.00", "s"]
    assert ["load", "transformer", "12.000", "-", "-", "-", "n/a"] in rows
    assert [
        "denoise",
        "transformer",
        "130.000",
        "107.50",
        "miss",
        "5",
        "4.500",
        "27.00",
        "GiB",
    ] in rows


def test_a_runs_warnings_stand_below_its_table_in_whole_lines() -> None:
    warning = "prompt: it comes to 801 tokens, of which the text encoder takes 512; " + "and so on " * 8
    warned = dataclasses.replace(report("a"), warnings=(warning.strip(),))
    summary, _ = TPUTimingReport().report(timing_1=telemetry.to_wire(warned))["result"]
    assert max(map(len, summary.splitlines())) <= 96
    assert " ".join(summary.split()).endswith(warning.strip())


def test_several_runs_are_summed_and_each_counts_once() -> None:
    """Two nodes of one run may hand on the same report."""
    answer = TPUTimingReport().report(timing_1=timing("a"), timing_3=timing("b"), timing_8=timing("a"))
    summary, text = answer["result"]
    assert summary.splitlines()[0].strip() == "wan2.1-t2v succeeded in 286.00 s"
    assert summary.count("HBM peak") == 1
    assert json.loads(text) == {"schema": 1, "runs": [timing("a"), timing("b")]}


def test_the_nodes_of_one_workflow_report_parts_of_its_run_and_all_of_them_count() -> None:
    encoder = dataclasses.replace(report("a", stages=1), total_seconds=12.0)
    timings: dict[str, Any] = {
        "timing_1": telemetry.to_wire(encoder),
        "timing_2": timing("a"),
        "timing_3": timing("a"),
    }
    summary, text = TPUTimingReport().report(**timings)["result"]
    assert summary.splitlines()[0].strip() == "wan2.1-t2v succeeded in 155.00 s"
    assert len(json.loads(text)["runs"]) == 2


class Graph:
    """As ComfyUI hands its own to a node."""

    def get_node(self, node_id: str) -> dict[str, Any]:
        links = {"timing_1": ["1", 2], "timing_2": ["2", 2], "timing_3": ["3", 2], "note": "no link"}
        return {
            "1": {"class_type": "Wan21TextEncoder", "inputs": {}},
            "2": {"class_type": "Wan21TPUSampler", "inputs": {}, "_meta": {"title": "The sampler"}},
            "3": {"class_type": "Wan21TPUSampler", "inputs": {}, "_meta": {"title": "Once more"}},
            "9": {"class_type": "TPUTimingReport", "inputs": links},
        }[node_id]


def test_one_table_has_the_stages_of_each_node_together_with_their_sum() -> None:
    encoder = dataclasses.replace(report("a", stages=1), total_seconds=12.0)
    stopped = dataclasses.replace(
        report("a"),
        status=Status.CANCELLED,
        stages=(stage(StageName.DENOISE, 0.0, 9.0, status=Status.CANCELLED, steps_total=50),),
    )
    reports = enumerate((encoder, report("a"), stopped), 1)
    timings = {f"timing_{number}": telemetry.to_wire(each) for number, each in reports}
    summary, _ = TPUTimingReport().report("9", Graph(), **timings)["result"]
    title, _, header, _, *rows = [line.split() for line in summary.splitlines()]
    assert title == ["wan2.1-t2v", "cancelled", "after", "0", "of", "50", "steps", "in", "298.00", "s"]
    assert header[:4] == ["stage", "seconds", "compile", "steps"]
    assert [row[:4] for row in rows[:-1]] == [
        ["Wan21TextEncoder", "12.000", "-", "-"],
        ["The", "sampler", "143.000", "107.50"],
        ["load", "transformer", "12.000", "-"],
        ["denoise", "transformer", "130.000", "107.50"],
        ["Once", "more", "9.000", "none"],
    ]
    assert "27.00 GiB" in summary.splitlines()[5]


def test_a_workflows_nodes_have_a_colour_of_their_own_and_lie_above_what_ran_in_them() -> None:
    seen = colours(draw([WORKFLOW], 1280, 720))
    assert {(0xB3, 0x60, 0x0A), (0x5B, 0x6B, 0x80), (0x2F, 0x6F, 0xDB)} <= seen


@pytest.mark.parametrize("title", ["$x^{$ costs 5$", "采样" * 200, "a title that never ends " * 50])
def test_whatever_a_workflow_and_its_nodes_are_called_can_be_drawn(title: str) -> None:
    nodes = [node(str(n), "KSampler", float(n), 1.0, title, steps=SAMPLED) for n in range(100)]
    assert draw([dataclasses.replace(WORKFLOW, name=title, stages=tuple(nodes))], 320, 320).shape == (
        320,
        320,
        3,
    )


@pytest.mark.parametrize(
    ("timings", "message"),
    [
        ({}, "timing_1: nothing is connected; connect the timing output of a TPU node"),
        ({"timing_2": "a text"}, "timing_2: this is no run report: a JSON object with schema 1 was expected"),
        ({"timing_2": {"schema": 1, "run_id": "a"}}, "timing_2: report lacks pipeline, model_id"),
    ],
)
def test_what_is_no_timing_is_refused_by_the_name_of_its_input(timings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TPUTimingReport().report(**timings)


def test_the_plot_is_one_comfyui_image_of_the_size_asked_for() -> None:
    import torch

    (image,) = TPUTimingPlot().plot(width=640, height=368, timing_1=timing())
    assert (image.shape, image.dtype) == ((1, 368, 640, 3), torch.float32)
    assert 0.0 <= float(image.min()) < 0.15
    assert float(image.max()) == 1.0


def colours(pixels: Any) -> set[tuple[int, ...]]:
    """Those that cover a hundredth of a thousandth of the picture or more."""
    values, counts = np.unique((pixels * 255).astype(np.uint8).reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(map(int, v)) for v, n in zip(values, counts, strict=True) if n * 1e5 > pixels.size}


def test_stages_have_the_pages_colours_and_hbm_its_limit() -> None:
    seen = colours(draw([report()], 1280, 720))
    assert {(0x5B, 0x6B, 0x80), (0x2F, 0x6F, 0xDB), (0xE9, 0xED, 0xF2)} <= seen


def test_what_is_not_known_is_not_drawn() -> None:
    """A run that only loaded has neither steps nor HBM: no bar, no line, `n/a`."""
    seen = colours(draw([report(stages=1)], 1280, 720))
    assert (0x5B, 0x6B, 0x80) in seen
    assert (0x2F, 0x6F, 0xDB) not in seen


@pytest.mark.parametrize(
    ("reports", "width", "height"),
    [
        ([report(stages=0)], 320, 320),
        ([report(chips=256)], 320, 4096),
        ([report(str(i)) for i in range(8)], 4096, 320),
    ],
)
def test_any_size_and_number_of_runs_and_chips_can_be_drawn(
    reports: list[RunReport], width: int, height: int
) -> None:
    assert draw(reports, width, height).shape == (height, width, 3)


def test_without_matplotlib_the_node_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "crystools_tpu.comfyui.timing_plot")
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"^matplotlib is not installed\. Run this"):
        NODE_CLASS_MAPPINGS["TPUTimingPlot"]().plot(width=320, height=320, timing_1=timing())
