"""A capture of jax's own profiler, asked for and bounded, and read back as jax wrote it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from crystools_tpu import telemetry
from crystools_tpu.telemetry import CaptureBusyError, CaptureStatus, ProfileCapture, Profiler, StageName
from tests.telemetry.conftest import Bench, DeviceStep


@jax.jit
def denoise_step(latents: jax.Array) -> jax.Array:
    return jnp.tanh(latents @ latents)


@pytest.fixture
def profiler(bench: Bench) -> Iterator[Profiler]:
    """A profiler of the test's own; jax's is left stopped."""
    made = Profiler(bench.bus)
    yield made
    made.wait()


def denoise(run: telemetry.Run, steps: int, **stage_options: Any) -> None:
    latents = jnp.full((8, 8), 0.01)
    with run.stage("denoise", steps=steps, **stage_options) as stage:
        for _ in range(steps):
            latents = denoise_step(latents)
            stage.step(latents)


def annotated(capture: ProfileCapture) -> list[tuple[str, dict[str, Any]]]:
    """What was annotated in the profile: names in the order of their beginning, with their fields."""
    assert capture.path is not None
    (file,) = Path(capture.path).glob("*.xplane.pb")
    events = [
        event
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
        if event.name.startswith(("denoise", "vae_decode")) and "_step(" not in event.name
    ]
    events.sort(key=lambda event: event.start_ns)
    return [(event.name, {name: value for name, value in event.stats if name}) for event in events]


def test_the_next_steps_of_a_coming_run_are_captured_with_stage_and_steps(
    bench: Bench, profiler: Profiler, tmp_path: Path
) -> None:
    assert profiler.request_capture(tmp_path, 3).status is CaptureStatus.WAITING
    with bench.real_time_run(profiler=profiler) as run:
        denoise(run, 6)
    capture = profiler.wait()
    folder = Path(capture.path or "")
    assert capture == ProfileCapture(CaptureStatus.WRITTEN, 3, 3, run.run_id, str(folder), None)
    assert folder.parent == tmp_path / "plugins" / "profile"
    names = annotated(capture)
    assert [name for name, _ in names] == ["denoise", *["denoise step"] * 3]
    assert [fields["step_num"] for _, fields in names[1:]] == [1, 2, 3]  # the first had been handed over
    with gzip.open(folder / "perfetto_trace.json.gz") as trace:
        assert any(event.get("name") == "denoise" for event in json.load(trace)["traceEvents"])


def test_all_that_happens_to_a_capture_is_published(bench: Bench, profiler: Profiler, tmp_path: Path) -> None:
    profiler.request_capture(tmp_path, 2)
    with bench.real_time_run(profiler=profiler) as run:
        denoise(run, 4)
    profiler.wait()
    changes = [event.capture for event in bench.events.drain() if isinstance(event, telemetry.ProfileChanged)]
    assert [(change.status.value, change.steps_captured) for change in changes] == [
        ("waiting", 0), ("capturing", 0), ("capturing", 1), ("capturing", 2), ("written", 2),
    ]  # fmt: skip


def test_it_goes_on_into_the_next_stage_and_ends_with_the_run(
    bench: Bench, profiler: Profiler, tmp_path: Path
) -> None:
    profiler.request_capture(tmp_path, 50)
    with bench.real_time_run(profiler=profiler) as run:
        denoise(run, 2)
        with run.stage("vae_decode"):
            pass
    capture = profiler.wait()
    assert (capture.status, capture.steps, capture.steps_captured) == (CaptureStatus.WRITTEN, 50, 1)
    assert [name for name, _ in annotated(capture)] == ["denoise", "denoise step", "vae_decode"]
    assert not profiler.armed


def test_a_stage_of_one_step_is_passed_over(bench: Bench, profiler: Profiler, tmp_path: Path) -> None:
    profiler.request_capture(tmp_path, 1)
    with bench.real_time_run(profiler=profiler) as run:
        with run.stage("text_encode", steps=1) as stage:
            stage.step(None)
        with run.stage("load"):
            assert profiler.capture.status is CaptureStatus.WAITING
        denoise(run, 2)
    assert [name for name, _ in annotated(profiler.wait())] == ["denoise", "denoise step"]


def test_of_one_stage_alone_it_ends_with_the_stage(bench: Bench, profiler: Profiler, tmp_path: Path) -> None:
    profiler.request_capture(tmp_path, 50, StageName.DENOISE)
    with bench.real_time_run(profiler=profiler) as run:
        with run.stage("vae_encode", steps=3) as stage:
            for _ in range(3):
                stage.step(None)
        assert profiler.capture.status is CaptureStatus.WAITING
        denoise(run, 4)
        assert profiler.wait().status is CaptureStatus.WRITTEN
    names = [name for name, _ in annotated(profiler.capture)]
    assert names == ["denoise", *["denoise step"] * 3]


def test_a_run_that_fails_ends_its_capture(bench: Bench, profiler: Profiler, tmp_path: Path) -> None:
    profiler.request_capture(tmp_path, 50)
    with pytest.raises(RuntimeError, match="out of memory"), bench.real_time_run(profiler=profiler) as run:
        with run.stage("denoise", steps=9) as stage:
            stage.step(denoise_step(jnp.ones((2, 2))))
            raise RuntimeError("out of memory")
    assert profiler.wait().status is CaptureStatus.WRITTEN


def test_it_stops_when_the_device_has_finished_the_last_step_and_not_before(
    bench: Bench, profiler: Profiler, tmp_path: Path
) -> None:
    profiler.request_capture(tmp_path, 1)
    with bench.real_time_run(profiler=profiler) as run, run.stage("denoise") as stage:
        stage.step(None)
        last = DeviceStep()
        stage.step(last)
        assert last.waited_for.wait(30)
        assert (profiler.capture.status, profiler.armed) == (CaptureStatus.CAPTURING, True)
        last.finish()
        while profiler.armed:
            bench.next("step_finished")
        assert profiler.wait().status is CaptureStatus.WRITTEN  # the stage is still open


def test_a_second_request_is_refused_while_one_waits_or_is_made(
    bench: Bench, profiler: Profiler, tmp_path: Path
) -> None:
    profiler.request_capture(tmp_path, 1)
    with pytest.raises(CaptureBusyError, match="start a run, and it begins"):
        profiler.request_capture(tmp_path, 1)
    with bench.real_time_run(profiler=profiler) as run, run.stage("denoise") as stage:
        stage.step(None)
        with pytest.raises(CaptureBusyError, match="ask again when it is written"):
            profiler.request_capture(tmp_path, 1)
    assert profiler.wait().status is CaptureStatus.WRITTEN
    profiler.request_capture(tmp_path, 1)
    with bench.real_time_run(profiler=profiler) as run:
        denoise(run, 3)
    assert profiler.wait().status is CaptureStatus.WRITTEN
    assert len(list((tmp_path / "plugins" / "profile").iterdir())) == 2


def test_of_two_runs_the_first_to_come_to_a_step_is_captured(
    bench: Bench, profiler: Profiler, tmp_path: Path
) -> None:
    profiler.request_capture(tmp_path, 2)
    with bench.real_time_run(profiler=profiler) as first, bench.real_time_run(profiler=profiler) as second:
        with first.stage("denoise") as one, second.stage("denoise") as other:
            one.step(None)
            for _ in range(5):
                other.step(None)
            assert profiler.capture.steps_captured == 0
            assert profiler.capture.run_id == first.run_id
    assert profiler.wait().steps_captured == 0


@pytest.mark.parametrize("steps", [0, 51, -1, 2.5, True, "5"])
def test_the_number_of_steps_is_bounded(profiler: Profiler, tmp_path: Path, steps: Any) -> None:
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 50"):
        profiler.request_capture(tmp_path, steps)
    assert not profiler.armed


def test_an_error_of_the_profiler_is_shown_and_breaks_no_run(
    bench: Bench, profiler: Profiler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiler.request_capture(tmp_path, 2)
    jax.profiler.start_trace(str(tmp_path / "somebody else's"))
    try:
        with bench.real_time_run(profiler=profiler) as run:
            denoise(run, 4)
    finally:
        jax.profiler.stop_trace()
    assert run.report.status is telemetry.Status.SUCCEEDED
    assert profiler.capture.status is CaptureStatus.FAILED
    assert "Only one profile may be run at a time" in (profiler.capture.error or "")
    assert "the profile could not be captured" in caplog.text


def test_without_jax_there_is_nothing_to_capture(
    bench: Bench, profiler: Profiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiler.request_capture(tmp_path, 2)
    with bench.real_time_run(profiler=profiler) as run, run.stage("denoise") as stage:
        monkeypatch.delitem(__import__("sys").modules, "jax")
        stage.step(None)
    assert "has not loaded jax" in (profiler.capture.error or "")


def test_an_annotation_that_fails_ends_the_capture_and_not_the_run_nor_the_next_capture(
    bench: Bench, profiler: Profiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str, **about: Any) -> Any:
        raise TypeError("StepTraceAnnotation() takes no keyword arguments")

    profiler.request_capture(tmp_path, 2)
    with monkeypatch.context() as other_jax, bench.real_time_run(profiler=profiler) as run:
        other_jax.setattr(jax.profiler, "StepTraceAnnotation", broken)
        denoise(run, 4)
    assert run.report.status is telemetry.Status.SUCCEEDED
    assert len(run.report.stages[0].steps) == 4
    assert profiler.capture.status is CaptureStatus.FAILED
    assert not profiler.armed
    profiler.wait()
    profiler.request_capture(tmp_path, 1)
    with bench.real_time_run(profiler=profiler) as run:
        denoise(run, 3)
    assert profiler.wait().status is CaptureStatus.WRITTEN
