"""How a running stage stands, folded from its events: the same whenever one began to listen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from crystools_tpu.telemetry import (
    Event,
    Fold,
    Run,
    RunReport,
    StageProgress,
    StageStarted,
    StepSeconds,
    with_progress,
)
from crystools_tpu.telemetry.stage import Stage
from tests.telemetry.conftest import Bench, DeviceStep

BACKEND = "/jax/core/compile/backend_compile_duration"
AS_REPORTED = (
    "step_seconds",
    "first_nonfinite_step",
    "compile_seconds",
    "compile_cache",
    "recompiles",
    "recompile_reasons",
    "bytes_done",
)


class Chip:
    """A chip with a peak."""

    platform = "tpu"
    device_kind = "TPU v6 lite"
    id = 0

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_in_use": 1, "peak_bytes_in_use": 1}


class Nan(DeviceStep):
    """A step whose output is not finite."""

    dtype = "bool"
    size = 1

    def block_until_ready(self) -> None:
        pass

    def __bool__(self) -> bool:
        return False


@dataclass
class Listener:
    """Hears what happens on a bench from its making on; the time of day is the bench's clock."""

    bench: Bench
    run: Run
    fold: Fold = field(init=False)

    def __post_init__(self) -> None:
        self._events = self.bench.bus.subscribe()
        self.fold = Fold(self.bench.history.report, self.run.unix_seconds)

    def heard(self) -> list[Event]:
        return [self.fold.add(event) for event in self._events.drain()]

    def progress(self) -> StageProgress:
        progress: StageProgress | None = getattr(self.heard()[-1], "progress", None)
        assert progress is not None
        return progress


@contextmanager
def listening(bench: Bench, *, steps: int = 10) -> Iterator[tuple[Stage, Listener]]:
    with bench.run(wall_clock=lambda: 1000.0, devices=[Chip()]) as run:
        listener = Listener(bench, run)
        with run.stage("denoise", steps=steps, flops_per_step=1e12, flops_method="m") as stage:
            yield stage, listener


def step(bench: Bench, stage: Stage, seconds: float, output: object = None) -> None:
    bench.clock.advance(seconds)
    stage.step(output)
    bench.next("step_finished")


def compiled(bench: Bench, stage: Stage, seconds: float, *reasons: str) -> None:
    for reason in reasons or ("",):
        bench.clock.advance(seconds)
        stage.compile_log.explain(reason)
        stage.compile_log.duration(BACKEND, seconds, "jit(step)")


def live(bench: Bench) -> RunReport:
    """The run as the recorder itself has it."""
    return bench.history.reports()[0]


def test_after_each_event_it_is_what_the_recorder_says(bench: Bench) -> None:
    with listening(bench) as (stage, listener):
        listener.heard()
        compiled(bench, stage, 30.0)
        step(bench, stage, 31.0)
        for seconds in (2.0, 4.0):
            step(bench, stage, seconds)
        compiled(bench, stage, 3.0, "at x", "at y")
        step(bench, stage, 1.0, Nan())
        step(bench, stage, 5.0)
        told = listener.progress()
        for name in AS_REPORTED:
            assert getattr(told, name) == getattr(stage.report, name), name
    assert told.step_seconds == StepSeconds(4.0, 5.0, 2.0, 5.0)
    assert (told.recompiles, told.recompile_reasons) == (1, ("at x; at y",))
    assert (told.first_nonfinite_step, told.compile_seconds) == (3, 36.0)


def test_who_listens_from_the_middle_on_hears_the_same(bench: Bench) -> None:
    with listening(bench) as (stage, first):
        compiled(bench, stage, 30.0)
        for seconds in (31.0, 2.0, 4.0):
            step(bench, stage, seconds)
        late = Listener(bench, first.run)
        for seconds in (6.0, 7.0):
            step(bench, stage, seconds)
        told = first.progress()
        assert late.progress() == told
        assert told.eta_seconds == 5 * 5.0


def test_events_that_the_report_of_the_run_knows_already_count_once(bench: Bench) -> None:
    with listening(bench) as (stage, first):
        step(bench, stage, 2.0)
        late = Listener(bench, first.run)
        compiled(bench, stage, 3.0, "at x")
        for seconds in (4.0, 2.0):
            step(bench, stage, seconds)
        told = late.progress()  # its first event finds all in the report
        assert (told.recompiles, told.recompile_reasons) == (1, ("at x",))
        assert told.step_seconds == StepSeconds(2.0, 2.0, 2.0, 2.0)


def test_steps_that_were_lost_are_made_good_from_the_report(bench: Bench) -> None:
    with listening(bench) as (stage, listener):
        listener.heard()
        for seconds in (1.0, 2.0, 3.0):
            step(bench, stage, seconds)
        last = listener._events.drain()[-1]
        told = listener.fold.add(last)
        assert told.progress.step_seconds == StepSeconds(2.0, 3.0, 1.0, 3.0)  # type: ignore[union-attr]


def test_mfu_is_that_of_the_latest_step_without_a_compile(bench: Bench) -> None:
    with listening(bench) as (stage, listener):
        for seconds in (1.0, 2.0):
            step(bench, stage, seconds)
        of_two_seconds = listener.progress().mfu
        assert of_two_seconds is not None
        assert of_two_seconds.numerator / of_two_seconds.denominator == pytest.approx(1e12 / (2 * 918e12))
        compiled(bench, stage, 3.0)
        step(bench, stage, 1.0)
        assert listener.progress().mfu == of_two_seconds


def test_the_time_left_runs_from_the_last_step_on_and_a_compile_does_not_turn_it_back(bench: Bench) -> None:
    with listening(bench) as (stage, listener):
        step(bench, stage, 4.0)
        assert listener.progress().eta_seconds == 36.0
        compiled(bench, stage, 6.0, "at x")
        told = listener.progress()
        assert (told.eta_seconds, told.eta_by_forecast) == (30.0, False)
        bench.clock.advance(50.0)
        run = with_progress(live(bench), listener.run.unix_seconds())
        assert run.progress is not None
        assert run.progress.eta_seconds == 0.0


def test_before_the_first_step_the_forecast_stands_however_long_the_compile(bench: Bench) -> None:
    with listening(bench, steps=10) as (stage, listener):
        (started,) = listener._events.drain()
        assert isinstance(started, StageStarted)
        report = dataclasses.replace(started.report, predicted_step_seconds=2.0)
        listener.fold.add(dataclasses.replace(started, report=report))
        compiled(bench, stage, 30.0)
        told = listener.progress()
        assert (told.eta_seconds, told.eta_by_forecast) == (20.0, True)
        step(bench, stage, 1.0)
        assert listener.progress().eta_by_forecast is False


def test_a_download_has_its_bytes_and_their_rate(bench: Bench) -> None:
    with bench.run() as run:
        listener = Listener(bench, run)
        with run.stage("download", bytes_total=100) as stage:
            stage.transferred(0)
            bench.clock.advance(2.0)
            stage.transferred(40)
            told = listener.progress()
            assert (told.bytes_done, told.bytes_per_second, told.eta_seconds) == (40, 20.0, 3.0)


def test_only_a_stage_that_runs_has_progress(bench: Bench) -> None:
    with bench.run() as run:
        listener = Listener(bench, run)
        assert with_progress(run.report, 0.0).progress is None
        with run.stage("load"):
            assert with_progress(run.report, 0.0).progress is not None
        run.warn("a prompt was cut")
        assert with_progress(run.report, 0.0).progress is None
        heard = {event.type: getattr(event, "progress", None) for event in listener.heard()}
    assert {name for name, progress in heard.items() if progress is not None} == {"stage_started"}
    assert with_progress(run.report, 0.0) is run.report


def test_an_event_of_a_run_that_nobody_knows_is_passed_on_as_it_is(bench: Bench) -> None:
    elsewhere = Fold(lambda run_id: None, lambda: 0.0)
    with listening(bench) as (stage, listener):
        listener.heard()
        step(bench, stage, 1.0)
        (event,) = listener._events.drain()
    assert elsewhere.add(event) is event
