"""Full, cached and compiled steps: what reports, times to go, comparisons and words make of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from crystools_tpu import telemetry
from crystools_tpu.stage_table import notes, stage_text, step_note
from crystools_tpu.telemetry import (
    CachedStep,
    Fold,
    Forecast,
    RunReport,
    StageForecast,
    StageName,
    StepSeconds,
    compare,
    explain,
)
from crystools_tpu.telemetry.causes import Cause
from crystools_tpu.telemetry.proposals import proposals_of
from crystools_tpu.telemetry.spent import Spent, parts_of
from crystools_tpu.telemetry.words import kinds_text, outcome, skipped_note
from tests.telemetry.conftest import Bench, Clock
from tests.telemetry.test_roofline import fake_devices

FULL_FLOPS, CACHED_FLOPS = 1000.0, 100.0
CHIP = fake_devices("TPU v6 lite", 1, bytes_in_use=1)
SCHEDULE = "FCC" * 10
"""One full step in three."""


class Truth:
    """Stands for an array of one boolean; the device takes so long for it once somebody waits."""

    dtype, size = "bool", 1

    def __init__(self, value: bool, clock: Clock | None = None, seconds: float = 0.0) -> None:
        self._value, self._clock, self._seconds = value, clock, seconds

    def __bool__(self) -> bool:
        return self._value

    def block_until_ready(self) -> None:
        clock, self._clock = self._clock, None
        if clock is not None:
            clock.advance(self._seconds)


def denoise(
    bench: Bench,
    schedule: str = SCHEDULE,
    *,
    cache: str | None = "first-block:0.1",
    full: float = 9.0,
    cached: float = 1.0,
    planned: bool = False,
    compiling: float = 0.0,
    nan_from: int | None = None,
    cancelled: bool = False,
    forecast: Forecast | None = None,
    asked: dict[str, Any] | None = None,
) -> Iterator[RunReport]:
    """A run that denoises, as it stands after each step: `F` a full one, `C` one that was skipped.

    Unless it is planned, the device alone decides. `compiling` falls in
    the first step and in those with a small letter.
    """
    params = {"prompt": "a boat", **({} if cache is None else {"step_cache": cache}), **(asked or {})}
    kinds = {"full": schedule.count("F"), "cached": schedule.count("C")}
    steps: Any = kinds if planned else len(schedule)
    with bench.run(
        params=params, content_params=["prompt"], devices=CHIP, peak_flops_per_chip=1e3, forecast=forecast
    ) as run:
        with run.stage("denoise", steps=steps, flops_per_step=FULL_FLOPS, flops_method="test") as stage:
            for number, letter in enumerate(schedule):
                seconds = {"F": full, "C": cached}[letter.upper()]
                if (number == 0 and compiling) or letter.islower():
                    stage.compile_log.duration(
                        "/jax/core/compile/backend_compile_duration", compiling, "jit(f)"
                    )
                    seconds += compiling
                skipped = letter.upper() == "C"
                done = Truth(nan_from is None or number < nan_from, bench.clock, seconds)
                if planned and skipped:
                    stage.step(done, kind="cached", flops=CACHED_FLOPS)
                elif planned:
                    stage.step(done)
                else:
                    stage.step(done, cached=CachedStep(Truth(skipped), CACHED_FLOPS, 0.0))
                bench.next("step_finished")
                yield run.report
            if cancelled:
                raise KeyboardInterrupt
    yield run.report


def ended(bench: Bench, schedule: str = SCHEDULE, **how: Any) -> RunReport:
    """The report of such a run that has ended."""
    *_, report = denoise(bench, schedule, **how)
    return report


def stage_of(report: RunReport) -> telemetry.StageReport:
    (stage,) = report.stages
    return stage


def test_the_seconds_of_a_step_are_those_of_full_ones_and_each_kind_has_its_own(bench: Bench) -> None:
    stage = stage_of(ended(bench, compiling=30.0))
    assert [step.kind for step in stage.steps[:4]] == ["full", "cached", "cached", "full"]
    assert stage.step_seconds == StepSeconds(9.0, 9.0, 9.0, 9.0)
    assert stage.step_seconds_by_kind == {
        "cached": StepSeconds(1.0, 1.0, 1.0, 1.0),
        "full": StepSeconds(9.0, 9.0, 9.0, 9.0),
    }


def test_a_stage_that_skipped_nothing_says_nothing_of_kinds(bench: Bench) -> None:
    report = ended(bench, "FFFF", cache=None)
    stage = stage_of(report)
    assert (stage.step_seconds_by_kind, stage.steps_by_kind, kinds_text(stage)) == (None, None, None)
    assert skipped_note(report) is None
    wire = telemetry.to_wire(report)["stages"][0]
    assert "step_seconds_by_kind" not in wire
    assert all("kind" not in step for step in wire["steps"])


def test_a_report_with_kinds_is_read_again_as_it_was(bench: Bench) -> None:
    report = ended(bench)
    assert telemetry.report_from_wire(telemetry.to_wire(report)) == report


def test_where_only_skipped_steps_were_timed_no_full_one_is_known(bench: Bench) -> None:
    stage = stage_of(ended(bench, "FCCC", compiling=30.0))
    assert stage.step_seconds is None
    assert stage.step_seconds_by_kind == {"cached": StepSeconds(1.0, 1.0, 1.0, 1.0)}


def test_flops_and_mfu_are_of_what_was_computed(bench: Bench) -> None:
    stage = stage_of(ended(bench))
    assert stage.flops == 10 * FULL_FLOPS + 20 * CACHED_FLOPS
    assert stage.mfu is not None
    assert stage.mfu.ratio == pytest.approx(12_000 / ((10 * 9.0 + 20 * 1.0) * 1e3))


def test_each_steps_mfu_is_its_own(bench: Bench) -> None:
    mfus = []
    with bench.run(devices=CHIP, peak_flops_per_chip=1e3) as run, run.stage("denoise") as stage:
        for seconds, skipped in ((9.0, False), (1.0, True)):
            done, cached = Truth(True, bench.clock, seconds), CachedStep(Truth(skipped), 50.0, 0.0)
            stage.step(done, flops=900.0, cached=cached)
            mfus.append(bench.next("step_finished").mfu.ratio)
    assert mfus == [pytest.approx(0.1), pytest.approx(0.05)]


def test_a_skip_that_cannot_be_read_leaves_what_the_step_cost_unknown(bench: Bench) -> None:
    with bench.run() as run, run.stage("denoise", steps=2, flops_per_step=900.0) as stage:
        bench.clock.advance(1.0)
        stage.step(None, cached=CachedStep("no array", 50.0, 0.0))
        stage.step(None, cached=CachedStep(Truth(True), float("nan"), 0.0))
    report = run.report.stages[0]
    assert [step.kind for step in report.steps] == ["full", "cached"]
    assert report.flops is None


@pytest.mark.parametrize("planned", [False, True], ids=["the device decides", "known before"])
@pytest.mark.parametrize("forecast", [None, 3.7], ids=["no forecast", "forecast"])
@pytest.mark.parametrize("slowed", [1.0, 1.5], ids=["as fast as forecast", "slowed"])
def test_the_time_to_go_is_right_within_a_fifth(
    bench: Bench, *, planned: bool, forecast: float | None, slowed: float
) -> None:
    expected = None
    if forecast is not None:
        stage = StageForecast(StageName.DENOISE, None, True, forecast, None)
        expected = Forecast("a guess", None, (stage,))
    total = slowed * (10 * 9.0 + 20 * 1.0)
    how: dict[str, Any] = {"planned": planned, "full": 9.0 * slowed, "cached": slowed, "forecast": expected}
    *running, _ = denoise(bench, **how)
    for number, report in enumerate(running, start=1):
        stage_now = stage_of(report)
        left = total - sum(step.seconds for step in stage_now.steps)
        known = telemetry.eta_seconds(stage_now)
        if slowed > 1 and forecast is not None and number < 4:
            continue  # so far the forecast counts, which does not know of it
        assert known is not None or number < 4, number
        assert known is None or known == pytest.approx(left, rel=0.2, abs=1e-9), number


def test_a_run_like_others_knows_how_much_is_skipped_before_its_own_first_skip(bench: Bench) -> None:
    before = ended(bench)
    with bench.run(params={"step_cache": "first-block:0.1"}, content_params=["prompt"], devices=CHIP) as run:
        with run.stage("denoise", steps=30) as stage:
            fold = Fold(lambda _: run.report, lambda: 0.0, lambda _: [before])
            bench.clock.advance(9.0)
            stage.step(None, cached=CachedStep(Truth(False), 1.0, 1.0))
            told = fold.add(bench.next("step_finished"))
    assert told.type == "step_finished"
    assert told.progress is not None
    assert told.progress.eta_seconds is None, "so far nothing was skipped"
    assert told.progress.run_eta_seconds == pytest.approx(10 * 9.0 + 20 * 1.0 - 9.0)


def test_steps_of_each_kind_are_told_as_they_come(bench: Bench) -> None:
    with bench.run(devices=CHIP, peak_flops_per_chip=1e3) as run:
        fold = Fold(lambda _: run.report, lambda: 0.0)
        with run.stage("denoise", steps=3, flops_per_step=FULL_FLOPS) as stage:
            fold.add(bench.next("stage_started"))
            for skipped in (False, True):
                done = Truth(True, bench.clock, 1.0 if skipped else 9.0)
                stage.step(done, cached=CachedStep(Truth(skipped), CACHED_FLOPS, 0.0))
                told = fold.add(bench.next("step_finished"))
    assert told.type == "step_finished"
    assert told.progress is not None
    assert told.progress.step_seconds == StepSeconds(9.0, 9.0, 9.0, 9.0)
    assert told.progress.step_seconds_by_kind == run.report.stages[0].step_seconds_by_kind
    assert told.progress.mfu is not None
    assert told.mfu is not None
    assert [told.progress.mfu.ratio, told.mfu.ratio] == pytest.approx([1 / 9, 0.1])
    assert step_note(told).startswith("1.000 s (cached), 0:09 left of denoise")


def test_where_the_seconds_went_a_compile_in_a_step_of_each_kind_is_set_beside_its_own(bench: Bench) -> None:
    report = ended(bench, "FCCFcCfCC", compiling=20.0)
    spent = {part.on: part.seconds for part in parts_of(report).values() if part.seconds}
    assert spent == {Spent.COMPILE: 20.0, Spent.RECOMPILE: 40.0, Spent.STEPS: 3 * 9.0 + 6 * 1.0}


def test_skipped_steps_do_not_make_a_step_faster(bench: Bench) -> None:
    without, with_cache = (
        ended(bench, "F" * 30, cache=None),
        ended(bench, cache="mag:0.12,0.2,3", planned=True),
    )
    comparison = compare(without, with_cache)
    changes = {change.name: change for change in comparison.stages[0].changes}
    assert changes["step_seconds_median"].ratio == 0.0
    assert (changes["cached_steps"].a, changes["cached_steps"].b) == (0, 20)
    assert (changes["cached_step_seconds_median"].a, changes["cached_step_seconds_median"].b) == (None, 1.0)
    assert comparison.bottom_line == (
        "B is 59% faster, with step cache mag:0.12,0.2,3 instead of none: "
        "-2 min 40 s steps of Denoise (20 of 30 skipped, A 0 of 30); "
        "measured too few times to know whether by chance."
    )


def test_without_a_step_cache_a_comparison_says_nothing_of_one(bench: Bench) -> None:
    a, b = ended(bench, "FF", cache=None), ended(bench, "FF", cache=None)
    assert {change.name for change in compare(a, b).stages[0].changes}.isdisjoint(
        {"cached_steps", "cached_step_seconds_median"}
    )


@pytest.mark.parametrize(
    ("asked_a", "asked_b", "said"),
    [
        ({}, {"loras": "lightx2v.safetensors"}, "with LoRA lightx2v.safetensors instead of none"),
        ({"loras": "a.safetensors"}, {}, "with LoRA none instead of a.safetensors"),
        ({}, {"scheduler": "euler"}, "with scheduler euler instead of the model's own"),
        ({"preset": "lightx2v-4step"}, {}, "with preset none instead of lightx2v-4step"),
        (
            {"step_cache": "mag:0.06,0.2,3"},
            {"step_cache": "mag:0.12,0.2,3"},
            "with step cache mag:0.12,0.2,3 instead of mag:0.06,0.2,3",
        ),
    ],
)
def test_what_was_asked_otherwise_is_said_in_words(
    bench: Bench, asked_a: dict[str, Any], asked_b: dict[str, Any], said: str
) -> None:
    a = ended(bench, "FFFF", cache=None, asked=asked_a)
    b = ended(bench, "FFFF", cache=None, asked=asked_b, full=6.0)
    assert said in compare(a, b).bottom_line
    assert explain(b, [a]).alike == 0, "they are not of one kind"


def test_a_run_that_skipped_fewer_steps_than_others_like_it_is_explained_by_that(bench: Bench) -> None:
    usual = [ended(bench) for _ in range(3)]
    explanation = explain(ended(bench, "FCF" * 10), usual)
    assert explanation.sentence == (
        "73% slower than its last three (3 min 10 s instead of 1 min 50 s): "
        "Denoise skipped 10 of its 30 steps instead of 20."
    )
    assert [finding.cause for finding in explanation.findings] == [Cause.STEP_CACHE]


def test_another_share_of_skips_is_no_slower_step(bench: Bench) -> None:
    (change, *_) = [
        change
        for change in compare(ended(bench), ended(bench, "FCF" * 10)).stages[0].changes
        if change.name == "step_seconds_median"
    ]
    assert change.ratio == 0.0


def test_a_step_cache_is_proposed_by_what_the_whole_run_took(bench: Bench) -> None:
    with_cache, without = ended(bench), ended(bench, "F" * 30, cache=None)
    (proposal,) = proposals_of(without, (), [with_cache])
    assert proposal.text.startswith("step cache first-block:0.1 instead of none: 1 min 50 s in all (run ")
    assert proposals_of(with_cache, (), [without]) == ()


def test_the_table_has_a_row_of_the_skipped_steps_and_says_their_share(bench: Bench) -> None:
    report = ended(bench, cache="mag:0.12,0.2,3")
    lines = [line.split() for line in stage_text(report).splitlines()]
    assert ["denoise", "110.000", "30", "9.000", "10.9%"] in [line[:5] for line in lines]
    assert ["of", "them", "cached", "20", "1.000"] in lines
    assert notes(report) == ("20 of 30 steps (67%) were skipped by the step cache (mag:0.12,0.2,3)",)
    assert kinds_text(stage_of(report)) == "10 full, 20 cached"


@pytest.mark.parametrize(
    ("schedule", "cache", "note"),
    [
        ("FFFF", "first-block:0", "none of 4 steps was skipped by the step cache (first-block:0)"),
        ("FFFC", "mag:0.1,0.2,3", "1 of 4 steps (25%) was skipped by the step cache (mag:0.1,0.2,3)"),
        ("FFCC", None, "2 of 4 steps (50%) were skipped by a step cache"),
        ("FFFF", "calibrate", None),
        ("FFFF", None, None),
    ],
)
def test_how_many_steps_were_skipped_in_words(
    bench: Bench, schedule: str, cache: str | None, note: str | None
) -> None:
    assert skipped_note(ended(bench, schedule, cache=cache)) == note


def test_a_nan_in_a_skipped_step_is_told_at_its_step(bench: Bench) -> None:
    report = ended(bench, "FCCFCC", nan_from=2)
    assert outcome(report) == "succeeded, NaN from step 2"
    assert stage_of(report).steps[2].kind == "cached"


def test_a_run_cancelled_in_its_midst_says_what_it_did(bench: Bench) -> None:
    runs = denoise(bench, "FCCFC", cancelled=True)
    with pytest.raises(KeyboardInterrupt):
        list(runs)
    (report,) = bench.history.reports()
    assert skipped_note(report) == "3 of 5 steps (60%) were skipped by the step cache (first-block:0.1)"
    assert kinds_text(stage_of(report)) == "2 full, 3 cached"
