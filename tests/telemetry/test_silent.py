"""A run that nobody is told of: the pipeline's own behaviour, and nothing of the recorder's."""

from __future__ import annotations

import inspect
import logging
import threading

import pytest

from crystools_tpu import telemetry
from crystools_tpu.telemetry.protocol import RunFacts
from tests.telemetry.conftest import DeviceStep


def test_nobody_hears_of_it_and_nothing_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    threads = threading.active_count()
    before = telemetry.history.reports()
    with telemetry.subscribe() as events, caplog.at_level(logging.DEBUG):
        with telemetry.silent_run("follower", params={"steps": 2}, devices=["chip"]) as run:
            with run.stage("denoise", component="transformer", steps=2, flops_per_step=1e12) as stage:
                for kind in ("full", "cached"):
                    stage.step(None, kind=kind)
                    assert threading.active_count() == threads
            run.warn("a prompt was cut")
            run.output = "video.mp4"
        assert events.drain() == []
    assert (telemetry.history.reports(), caplog.messages) == (before, [])
    (denoise,) = run.report.stages
    assert (denoise.name, denoise.component, denoise.status) == ("denoise", "transformer", "succeeded")
    assert (denoise.seconds, denoise.steps, denoise.flops, denoise.hbm) == (None, (), None, ())
    assert (run.report.status, run.report.output, run.report.warnings) == ("succeeded", "video.mp4", ())
    assert (run.report.params, run.devices) == ({"steps": 2}, ("chip",))


def test_its_report_is_one_that_can_be_written_and_read() -> None:
    with telemetry.silent_run("follower") as run, run.stage("load"):
        assert run.report.stages[0].status == "running"
    assert telemetry.report_from_wire(telemetry.to_wire(run.report)) == run.report


def test_it_keeps_the_pace_of_a_run_that_is_recorded() -> None:
    first, second = DeviceStep(), DeviceStep()
    returned: list[DeviceStep | None] = []

    def host() -> None:
        with telemetry.silent_run("follower") as run:
            with run.stage("denoise") as stage:
                for step in (first, second):
                    stage.step(step)
                    returned.append(step)
            returned.append(None)

    thread = threading.Thread(target=host)
    thread.start()
    assert first.waited_for.wait(30)
    assert returned == [first]
    first.finish()
    assert second.waited_for.wait(30)
    assert returned == [first, second]
    second.finish()
    thread.join(30)
    assert returned == [first, second, None]


@pytest.mark.parametrize("steps_after", [0, 1])
def test_the_devices_error_comes_out_as_itself(steps_after: int) -> None:
    class Broken:
        def block_until_ready(self) -> None:
            raise RuntimeError("RESOURCE_EXHAUSTED")

    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"), telemetry.silent_run("follower") as run:
        with run.stage("denoise") as stage:
            stage.step(Broken())
            for _ in range(steps_after):
                stage.step(None)
    assert (run.report.status, run.report.stages[0].status) == ("failed", "failed")


def test_it_takes_every_argument_of_a_run_that_is_recorded() -> None:
    facts = RunFacts.__annotations__.keys()
    for recorder in (telemetry.run, telemetry.silent_run):
        assert facts <= inspect.signature(recorder).parameters.keys()


def test_ctrl_c_ends_stage_and_run_as_cancelled() -> None:
    with pytest.raises(KeyboardInterrupt), telemetry.silent_run("follower") as run, run.stage("load"):
        raise KeyboardInterrupt
    assert (run.report.status, run.report.stages[0].status) == ("cancelled", "cancelled")


def test_what_is_wrong_at_the_door_is_refused_as_ever() -> None:
    with telemetry.silent_run("follower") as run:
        with pytest.raises(ValueError, match="'upscale' is none of download, load"), run.stage("upscale"):
            pass
        with pytest.raises(telemetry.TelemetryError, match="'load' begins while another is open"):
            with run.stage("denoise"), run.stage("load"):
                pass
        with pytest.raises(TypeError, match="with a str"), run.stage("denoise") as stage:
            stage.step("done")
