"""Which figures cannot be, and which a stage can have at all."""

from __future__ import annotations

import dataclasses

import pytest

from crystools_tpu.stage_table import percent, stage_text
from crystools_tpu.telemetry import RunReport, StageName, StageReport, Verdict, compare, run_warnings
from crystools_tpu.telemetry.applicable import applies
from crystools_tpu.telemetry.suspicion import suspect_figures, suspicions
from tests.rigs.suspects import POSSIBLE, SUSPECTS, denoise, mfu
from tests.rigs.workflow_run import WORKFLOW, node, stage

FLOPS = "the pipeline declares too many FLOPs a step (flops_per_step)"


def run_of(*stages: StageReport, run_id: str = "a") -> RunReport:
    return dataclasses.replace(
        WORKFLOW, run_id=run_id, pipeline="mine", name=None, cached_nodes=(), stages=stages
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "MFU of a chip",
            f"MFU 101.0% cannot be, it is more than the devices can do: {FLOPS}, "
            "or it computes in a format that is faster than bf16, whose peak this is of",
        ),
        (
            "MFU of a CPU",
            f"MFU 855.0% cannot be, it is more than the devices can do: {FLOPS}, "
            "or the peak that was measured of the CPU is far too low (give peak_flops_per_chip)",
        ),
        (
            "MFU of a given peak",
            f"MFU 150.0% cannot be, it is more than the devices can do: {FLOPS}, "
            "or the peak that was given (peak_flops_per_chip) is too low",
        ),
        (
            "MBU",
            "MBU 120.0% cannot be, it is more than the devices can do: "
            "the pipeline declares too many bytes a step (bytes_per_step)",
        ),
        (
            "HBM",
            "HBM peak 40.00 GiB of 31.25 GiB on tpu:0 cannot be: "
            "what memory_stats says is wrong; update libtpu or the driver",
        ),
        (
            "time",
            "time -1.000 s cannot be: the report was altered, or is of a clock that was set back",
        ),
        (
            "step",
            "step -0.500 s cannot be: the report was altered, or is of a clock that was set back",
        ),
    ],
)
def test_a_figure_that_cannot_be_has_a_reason_and_what_to_do(name: str, said: str) -> None:
    run = run_of(SUSPECTS[name])
    assert list(suspicions(run)) == [f"denoise transformer: {said}"]
    assert run_warnings(run) == tuple(suspicions(run))


@pytest.mark.parametrize("name", POSSIBLE)
def test_what_is_possible_is_no_suspect(name: str) -> None:
    assert suspect_figures(POSSIBLE[name]) == {}


def test_a_run_that_ended_before_it_began_is_one() -> None:
    assert list(suspicions(dataclasses.replace(run_of(), total_seconds=-3.0))) == [
        "whole run: time -3.000 s cannot be: the report was altered, or is of a clock that was set back"
    ]


def test_it_is_marked_and_shown_as_it_was_measured() -> None:
    assert percent(mfu(8.55, "peak: measured")) == "855.0%?"
    assert percent(mfu(1.5e9, "peak: measured")) == ">9999%?"
    rows = [line.split() for line in stage_text(run_of(*SUSPECTS.values())).splitlines()]
    marked = [cell for row in rows for cell in row if cell.endswith("?")]
    assert marked == ["101.0%?", "855.0%?", "150.0%?", "GiB?", "-1.000?", "-0.500?"]


def test_nothing_is_made_of_a_change_to_it() -> None:
    good, bad = denoise(mfu=mfu(0.4, "peak: x")), SUSPECTS["MFU of a chip"]
    comparison = compare(run_of(good), run_of(bad, run_id="b"))
    change = next(change for change in comparison.stages[0].changes if change.name == "mfu_ratio")
    assert (change.a, change.b, change.ratio, change.verdict, change.suspect) == (
        0.4,
        1.01,
        None,
        None,
        ("b",),
    )
    assert comparison.remarks == (f"B: {next(iter(suspicions(run_of(bad))))}",)
    assert comparison.stages[0].changes[0].verdict is Verdict.SAME


def test_what_a_stage_cannot_have_is_no_unknown() -> None:
    load, save = stage(StageName.LOAD, "vae", 0.0, 1.0), stage(StageName.SAVE, None, 0.0, 1.0)
    download = stage(StageName.DOWNLOAD, None, 0.0, 1.0)
    sampler = node("3", "KSampler", 0.0, 1.0, steps_total=20)
    assert [applies("steps", each) for each in (load, save, download, sampler, denoise())] == [
        False, False, False, True, True,
    ]  # fmt: skip
    assert [applies("utilisation", each) for each in (load, sampler, denoise())] == [False, False, True]
    assert [applies("compile", each) for each in (load, save, denoise())] == [False, False, True]
    assert [applies("host_memory", each) for each in (load, sampler)] == [False, True]
    assert [applies("memory", each) for each in (download, load)] == [False, True]


def test_a_column_of_which_nothing_is_known_is_left_out() -> None:
    only_loads = run_of(stage(StageName.LOAD, "vae", 0.0, 1.0), stage(StageName.SAVE, None, 1.0, 1.0))
    assert stage_text(only_loads).splitlines()[2].split() == ["stage", "seconds"]
    with_mfu = run_of(stage(StageName.LOAD, "vae", 0.0, 1.0), denoise(mfu=mfu(0.4, "peak: x")))
    assert stage_text(with_mfu).splitlines()[2].split() == ["stage", "seconds", "MFU"]
