"""The ETA of a stage: the steps to come of each kind, times what such a step takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from crystools_tpu import telemetry
from crystools_tpu.telemetry import StepRecord
from crystools_tpu.telemetry.step_times import Eta
from tests.telemetry.conftest import Bench


def eta(
    planned: Mapping[str, int] | None, *steps: tuple[str, float], predicted: float | None = None
) -> float | None:
    """After these steps, given as kind and seconds; `!` after the kind is a compile."""
    counted = Eta(planned, predicted)
    for kind, seconds in steps:
        counted.add(StepRecord(seconds, kind.endswith("!"), None, kind.removesuffix("!")))
    return counted.seconds


def decided(done: str, predicted: float | None = None) -> float | None:
    """After these of 30 steps, `F` a full one and `C` one that the device has skipped."""
    counted = Eta({"full": 30}, predicted)
    for letter in done:
        record = StepRecord(1000.0, False, None) if letter == "F" else StepRecord(1.0, False, None, "cached")
        counted.add(record, device_decides=True)
    return counted.seconds


CACHED = {"full": 4, "cached": 6}


def test_steps_of_one_kind_are_the_median_times_those_to_come() -> None:
    assert eta({"full": 10}, ("full", 2.0), ("full", 2.0), ("full", 5.0)) == 7 * 2.0


def test_steps_of_each_kind_take_what_their_own_kind_takes() -> None:
    assert eta(CACHED, ("full", 10.0), ("cached", 1.0), ("cached", 2.0)) == 3 * 10.0 + 4 * 1.5


def test_a_kind_to_come_that_was_not_seen_leaves_the_eta_unknown() -> None:
    assert eta(CACHED, ("full", 10.0)) is None
    assert eta(CACHED, ("full", 10.0), ("cached!", 30.0)) is None
    assert eta(CACHED, ("full", 10.0), ("cached!", 30.0), ("cached", 1.0)) == 3 * 10.0 + 4 * 1.0


def test_a_kind_that_was_not_seen_and_does_not_come_is_no_matter() -> None:
    assert eta({"full": 2, "cached": 0}, ("full", 10.0)) == 10.0
    assert eta({"full": 1, "cached": 2}, ("full!", 60.0), ("cached", 1.0)) == 1.0


def test_the_forecast_is_one_step_of_those_of_one_kind() -> None:
    assert eta({"full": 10}, predicted=4.0) == 40.0
    assert eta({"full": 10}, ("full", 10.0), predicted=4.0) == 9 * 7.0
    assert eta({"full": 20}, *[("full", 5.0)] * 16, predicted=1e9) == 4 * 5.0


def test_of_several_kinds_those_not_timed_take_what_the_others_leave_of_the_forecast() -> None:
    assert eta(CACHED, predicted=4.6) == 46.0
    assert eta(CACHED, ("full", 10.0), predicted=4.6) == 3 * 10.0 + 6 * 1.0
    assert eta(CACHED, ("full!", 70.0), ("cached", 1.0), predicted=4.6) == 3 * 10.0 + 5 * 1.0
    assert eta(CACHED, ("full", 10.0), ("cached", 2.0), predicted=4.6) == 3 * 10.0 + 5 * 2.0
    assert eta(CACHED, ("full", 20.0), predicted=4.6) == 3 * 20.0, "no less than nothing"


def test_each_kind_is_followed_over_its_own_last_sixteen_steps() -> None:
    slower = [("full", 9.0), *[("cached", 1.0)] * 16, *[("cached", 3.0)] * 16]
    assert eta({"full": 2, "cached": 40}, *slower) == 1 * 9.0 + 8 * 3.0


def test_a_step_of_a_kind_that_was_not_planned_leaves_what_is_to_come_unknown() -> None:
    assert eta({"full": 10}, ("full", 2.0), ("other", 1.0)) is None
    assert eta({"full": 5, "other": 5}, ("full", 2.0), ("other", 1.0), ("cached", 1.0)) is None


@pytest.mark.parametrize(
    ("done", "full", "cached"),
    [
        ("FFFFFFFF", 22, 0),  # a quarter of the steps without a skip
        ("FCCF", 8, 18),
        ("FCCFC", 8, 17),
        ("FCCFCC", 8, 16),
        ("FFFFFCCF", 7, 15),
        ("FFFFFCCC", 6, 16),  # a quarter of the steps, and it still skips
        ("FCFCCC", 8, 16),  # one and then three are two on average
        ("FCCFCCFCCFCCFCCFCCFCCFCCFCCF", 0, 2),
        ("FCCFCCFCCFCCFCCFCCFCCFCCFCCFC", 0, 1),
        ("FCCFCCFCCFCCFCCFCCFCCFCCFCCFCC", 0, 0),
    ],
)
def test_where_the_device_decides_what_is_skipped_it_goes_on_as_it_went(
    done: str, full: int, cached: int
) -> None:
    assert decided(done) == full * 1000.0 + cached * 1.0


def test_until_the_first_skips_have_ended_nobody_knows_how_many_there_will_be_but_the_forecast() -> None:
    assert [decided(done) for done in ("F", "FFFFFFF", "FC", "FCC")] == [None] * 4
    assert decided("FFF", predicted=340.0) == 27 * 340.0
    assert decided("FFFC", predicted=340.0) == 26 * 340.0
    assert decided("FFFCCF", predicted=340.0) == 8 * 1000.0 + 16 * 1.0


def test_a_cache_that_no_longer_skips_is_soon_believed() -> None:
    once = [("full", 10.0), ("cached", 1.0)]
    assert eta({"full": 40}, *once, *[("full", 10.0)] * 18) == 20 * 10.0


def test_steps_beyond_the_plan_take_nothing_away() -> None:
    assert eta({"full": 1, "cached": 2}, ("full", 9.0), ("full", 9.0), ("cached", 1.0)) == 1.0


def test_nothing_planned_or_nothing_timed_is_no_eta() -> None:
    assert eta(None, ("full", 2.0)) is None
    assert eta({"full": 1}, ("full!", 30.0)) is None


def test_a_stage_says_how_many_steps_of_each_kind_come_and_each_step_its_kind(bench: Bench) -> None:
    with bench.run() as run, run.stage("denoise", steps={"full": 2, "cached": 2}) as stage:
        etas = []
        for kind, seconds in (("full", 8.0), ("cached", 1.0), ("full", 8.0), ("cached", 1.0)):
            bench.clock.advance(seconds)
            stage.step(None, kind=kind)
            etas.append(bench.next("step_finished").eta_seconds)
            assert telemetry.eta_seconds(stage.report) == etas[-1]
    assert etas == [None, 9.0, 1.0, 0.0]
    report = run.report.stages[0]
    assert (report.steps_total, report.steps_by_kind) == (4, {"full": 2, "cached": 2})
    assert [step.kind for step in report.steps] == ["full", "cached", "full", "cached"]
    full, cached = telemetry.StepSeconds(8.0, 8.0, 8.0, 8.0), telemetry.StepSeconds(1.0, 1.0, 1.0, 1.0)
    assert report.step_seconds == full
    assert report.step_seconds_by_kind == {"cached": cached, "full": full}


def test_the_wire_carries_a_kind_only_where_it_is_not_the_full_one(bench: Bench) -> None:
    with bench.run() as run:
        for steps, kind in ((1, "full"), ({"full": 1}, "full"), ({"full": 0, "cached": 1}, "cached")):
            with run.stage("denoise", steps=steps) as stage:
                stage.step(None, kind=kind)
    wire = telemetry.to_wire(run.report)
    assert ["steps_by_kind" in stage for stage in wire["stages"]] == [False, False, True]
    assert wire["stages"][2]["steps_by_kind"] == {"full": 0, "cached": 1}
    records = [stage["steps"][0] for stage in wire["stages"]]
    assert [record.get("kind") for record in records] == [None, None, "cached"]
    assert telemetry.report_from_wire(wire) == run.report


@pytest.mark.parametrize("wrong", [{"full": 3, "cached": -1}, {"cached": "many"}, {"cached": None}])
def test_a_number_of_steps_that_can_be_none_leaves_their_total_unknown(bench: Bench, wrong: Any) -> None:
    with bench.run() as run, run.stage("denoise", steps=wrong) as stage:
        stage.step(None, kind="cached")
    report = run.report.stages[0]
    assert (report.steps_total, report.steps_by_kind, len(report.steps)) == (None, None, 1)


@pytest.mark.parametrize("wrong", [[], {"cached": "many"}])
def test_steps_by_kind_that_cannot_be_read_are_named(bench: Bench, wrong: Any) -> None:
    with bench.run() as run, run.stage("denoise"):
        pass
    wire = telemetry.to_wire(run.report)
    wire["stages"][0]["steps_by_kind"] = wrong
    with pytest.raises(ValueError, match=r"report\.stages\[0\]\.steps_by_kind(\.cached)? is no"):
        telemetry.report_from_wire(wire)
