"""How a run ended, and what its user should know, in words."""

from __future__ import annotations

import dataclasses

import pytest

from crystools_tpu.telemetry import (
    Forecast,
    RunReport,
    StageForecast,
    StageName,
    Status,
    nonfinite_note,
    outcome,
    run_warnings,
)
from tests.rigs.workflow_run import GIB, WORKFLOW, stage, with_nan

RUN = dataclasses.replace(
    WORKFLOW,
    pipeline="wan2.1-t2v",
    name=None,
    cached_nodes=(),
    stages=(
        stage(StageName.DENOISE, "transformer", 0.0, 45.0, first_nonfinite_step=12),
        stage(StageName.VAE_DECODE, None, 45.0, 5.0, first_nonfinite_step=0),
    ),
)


def changed(report: RunReport, position: int, **changes: object) -> RunReport:
    stages = list(report.stages)
    stages[position] = dataclasses.replace(stages[position], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(report, stages=tuple(stages))


def test_a_run_that_made_nan_has_succeeded_with_nan_from_where_it_began() -> None:
    assert outcome(WORKFLOW) == "succeeded"
    assert outcome(RUN) == "succeeded, NaN from step 12"
    assert outcome(with_nan(WORKFLOW)) == "succeeded, NaN from step 12", "of the model in one of its nodes"
    assert outcome(dataclasses.replace(RUN, status=Status.RUNNING)) == "running, NaN from step 12"


def test_where_it_is_not_the_one_denoising_the_stage_is_named() -> None:
    decoded = changed(RUN, 0, first_nonfinite_step=None)
    assert nonfinite_note(decoded) == "NaN from step 0 of vae_decode"
    second = stage(StageName.DENOISE, "transformer_2", 50.0, 5.0)
    two = dataclasses.replace(RUN, stages=(*RUN.stages, second))
    assert nonfinite_note(two) == "NaN from step 12 of denoise transformer"


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.INTERRUPTED])
def test_a_run_that_came_to_no_end_is_what_it_is(status: Status) -> None:
    assert outcome(dataclasses.replace(RUN, status=status)) == status.value


def test_all_that_the_user_should_know_is_said_once() -> None:
    forecast = Forecast(
        "the plan", 31 * GIB, (StageForecast(StageName.DENOISE, "transformer", False, None, 40 * GIB),)
    )
    evicted = "evicted vae of mine, 1.50 GiB, for another that needed the room"
    report = dataclasses.replace(RUN, warnings=(evicted, evicted), forecast=forecast)
    reasons = ("at latents, now bf16[4]", "at latents, now bf16[4]", "at mask, now i32[2]")
    report = changed(report, 1, first_nonfinite_step=None, recompiles=3, recompile_reasons=reasons)
    assert run_warnings(report) == (
        "does not fit by the plan: denoise transformer wants 40.00 GiB of a chip's 31.00 GiB",
        evicted,
        "NaN in denoise transformer from step 12 on: the output is not usable",
        "vae_decode recompiled 3 times after its first step: at latents, now bf16[4]; at mask, now i32[2]",
    )
    assert run_warnings(WORKFLOW) == ()
