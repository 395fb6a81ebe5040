"""Runs, stages and steps: what is recorded, when, and that nothing is lost on an error."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from crystools_tpu import telemetry
from crystools_tpu.telemetry import StepRecord
from crystools_tpu.telemetry.step_times import step_statistics
from tests.telemetry.conftest import Bench, DeviceStep


def test_a_run_tells_its_story_in_order(bench: Bench) -> None:
    with bench.run("wan", model_id="org/name", params={"steps": 1}) as run:
        with run.stage("load", component="vae"):
            bench.clock.advance(2)
        with run.stage("denoise", steps=1) as stage:
            bench.clock.advance(3)
            stage.step(None)
        run.output = "video.mp4"
    types = [event.type for event in bench.events.drain()]
    assert types == [
        "run_started",
        "stage_started",
        "stage_finished",
        "stage_started",
        "step_finished",
        "stage_finished",
        "run_finished",
    ]
    report = bench.history.reports()[0]
    assert (report.pipeline, report.model_id, report.params) == ("wan", "org/name", {"steps": 1})
    assert (report.status, report.total_seconds, report.output) == ("succeeded", 5, "video.mp4")
    assert [(s.name, s.component, s.seconds) for s in report.stages] == [
        ("load", "vae", 2),
        ("denoise", None, 3),
    ]


def test_step_time_is_from_one_completion_on_the_device_to_the_next(bench: Bench) -> None:
    steps = [DeviceStep() for _ in range(3)]
    with bench.run() as run:
        with run.stage("denoise", steps=3) as stage:
            stage.step(steps[0])
            for step, seconds in zip(steps, (1.0, 2.0, 4.0), strict=True):
                assert step.waited_for.wait(30)
                bench.clock.advance(seconds)
                step.finish()
                event = bench.next("step_finished")
                assert event.record == StepRecord(seconds, compiled=False, finite=None)
                if event.step + 1 < len(steps):
                    stage.step(steps[event.step + 1])
    assert run.report.stages[0].step_seconds == telemetry.StepSeconds(2.0, 4.0, 1.0, 4.0)


def test_eta_is_the_median_step_times_the_steps_to_come(bench: Bench) -> None:
    with bench.run() as run, run.stage("denoise", steps=10) as stage:
        for seconds in (2.0, 2.0, 5.0):
            bench.clock.advance(seconds)
            stage.step(None)
            event = bench.next("step_finished")
    assert event.eta_seconds == 14.0


def test_the_host_is_never_more_than_two_steps_ahead(bench: Bench) -> None:
    steps = [DeviceStep() for _ in range(6)]
    reported = []
    with bench.run() as run, run.stage("denoise") as stage:

        def host() -> None:
            for step in steps:
                stage.step(step)
                reported.append(step)

        thread = threading.Thread(target=host)
        thread.start()
        for finished, step in enumerate(steps):
            assert step.waited_for.wait(30)
            # Returned from: the finished ones and one in flight. The next is dispatched, its report waits.
            assert len(reported) <= finished + 1
            step.finish()
            bench.next("step_finished")
        thread.join(30)
    assert len(reported) == len(run.report.stages[0].steps) == 6


def test_the_end_of_a_stage_waits_for_its_steps(bench: Bench) -> None:
    step = DeviceStep()

    def device() -> None:
        assert step.waited_for.wait(30)
        bench.clock.advance(7)
        step.finish()

    thread = threading.Thread(target=device)
    with bench.run() as run, run.stage("text_encode") as stage:
        stage.step(step)
        thread.start()
    thread.join(30)
    assert run.report.stages[0].seconds == 7


def test_an_error_ends_stage_and_run_as_failed_with_its_reason(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="chip on fire"), bench.run() as run:
        with run.stage("load"):
            bench.clock.advance(1)
        with run.stage("denoise") as stage:
            bench.clock.advance(1)
            stage.step(None)
            raise RuntimeError("chip on fire")
    report = run.report
    assert (report.status, report.error) == ("failed", "RuntimeError: chip on fire")
    assert [(s.status, s.error) for s in report.stages] == [
        ("succeeded", None),
        ("failed", "RuntimeError: chip on fire"),
    ]
    assert len(report.stages[1].steps) == 1
    assert bench.next("run_finished").report == report


def test_a_run_that_was_ended_from_outside_ends_once(bench: Bench) -> None:
    """By who watches for signals, while the run's own thread is far from Python."""
    with pytest.raises(KeyboardInterrupt, match="late"), bench.run() as run, run.stage("denoise"):
        assert bench.history.running() == (run,)
        run.finish(KeyboardInterrupt("from outside"))
        assert bench.history.running() == ()
        raise KeyboardInterrupt("late")
    assert (run.report.status, run.report.error) == ("cancelled", "KeyboardInterrupt: from outside")
    assert [event.type for event in bench.events.drain()].count("run_finished") == 1


def test_ctrl_c_ends_stage_and_run_as_cancelled(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt), bench.run() as run, run.stage("denoise") as stage:
        stage.step(None)
        raise KeyboardInterrupt
    assert (run.report.status, run.report.error) == ("cancelled", "KeyboardInterrupt")
    assert [(s.status, len(s.steps)) for s in run.report.stages] == [("cancelled", 1)]


@pytest.mark.parametrize("steps_after", [0, 1])
def test_an_error_of_the_device_surfaces_at_the_next_step_or_the_end_of_the_stage(
    bench: Bench, steps_after: int
) -> None:
    class Broken:
        def block_until_ready(self) -> None:
            raise RuntimeError("RESOURCE_EXHAUSTED")

    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"), bench.run() as run:
        with run.stage("denoise") as stage:
            stage.step(Broken())
            for _ in range(steps_after):
                stage.step(None)
    assert run.report.stages[0].status == "failed"
    assert run.report.stages[0].steps == ()


def test_what_cannot_be_waited_for_is_refused_with_what_can(bench: Bench) -> None:
    with pytest.raises(TypeError, match=r"with a str, .* pass a small jax array"):
        with bench.run() as run, run.stage("denoise") as stage:
            stage.step("done")


def test_a_stage_within_a_stage_is_refused(bench: Bench) -> None:
    with pytest.raises(telemetry.TelemetryError, match="'load' begins while another is open"):
        with bench.run() as run, run.stage("denoise"), run.stage("load"):
            pass


def test_an_unknown_stage_is_refused_with_the_known_ones(bench: Bench) -> None:
    with pytest.raises(ValueError, match="'upscale' is none of download, load, text_encode"):
        with bench.run() as run, run.stage("upscale"):
            pass


def test_runs_in_several_threads_do_not_mix(bench: Bench) -> None:
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        with bench.real_time_run(f"pipeline-{number}") as run, run.stage("denoise") as stage:
            barrier.wait(30)
            for _ in range(10 + number):
                stage.step(None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = {report.pipeline: len(report.stages[0].steps) for report in bench.history.reports()}
    assert found == {f"pipeline-{number}": 10 + number for number in range(4)}


def test_statistics_leave_out_the_steps_in_which_a_compile_fell() -> None:
    records = [StepRecord(60.0, compiled=True, finite=True)]
    records += [StepRecord(float(s), compiled=False, finite=True) for s in range(1, 101)]
    assert step_statistics(records) == telemetry.StepSeconds(median=50.5, p95=95.0, min=1.0, max=100.0)
    assert step_statistics(records[:1]) is None


def test_no_thread_is_left_behind(bench: Bench) -> None:
    before = threading.active_count()
    for _ in range(20):
        with bench.run() as run, run.stage("denoise") as stage:
            stage.step(None)
    assert threading.active_count() == before


def test_a_subscriber_that_fails_harms_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise OSError("the socket is gone")

    with bench.bus.subscribe(wakeup=broken), bench.run() as run, run.stage("save"):
        pass
    assert run.report.status == "succeeded"
    assert "a telemetry subscriber's wakeup failed" in caplog.text


def test_without_devices_there_are_no_figures_of_devices(bench: Bench) -> None:
    with bench.run() as run, run.stage("denoise", flops_per_step=1e12) as stage:
        bench.clock.advance(1)
        stage.step(None)
    stage_report: Any = run.report.stages[0]
    assert run.report.device is None
    assert (stage_report.flops, stage_report.mfu, stage_report.hbm) == (1e12, None, ())
