"""Nothing that only watches reaches the run: whatever of it fails, the run ends with its own result."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from crystools_tpu import telemetry
from crystools_tpu.telemetry import Forecast, RunFinished, RunReport, StageForecast, StageName, compiles
from tests.telemetry.conftest import Bench

GIB = 2**30
STEPS = 20


class Fault(Exception):
    """What the watching raises in these tests."""


def fails(*_: Any, **__: Any) -> NoReturn:
    raise Fault("watching failed")


class Chip:
    """A v6e chip whose memory is read as often as the test has readings; the last stays."""

    platform = "tpu"
    device_kind = "TPU v6 lite"
    id = 0

    def __init__(self, *readings: Any) -> None:
        self._readings = list(readings or [{"bytes_in_use": GIB, "peak_bytes_in_use": GIB}])

    def memory_stats(self) -> Any:
        reading = self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]
        return reading() if callable(reading) else reading


class ArraysGone(Chip):
    """A backend without a count, whose arrays go while they are looked at."""

    def memory_stats(self) -> Any:
        return None

    class client:
        live_arrays = staticmethod(fails)


class Nameless(Chip):
    @property
    def id(self) -> int:  # type: ignore[override]
        fails()


class Kindless(Chip):
    @property
    def device_kind(self) -> str:  # type: ignore[override]
        fails()


class FailingProfiler:
    """Every hook of the profiler fails."""

    armed = True

    def __getattr__(self, hook: str) -> Callable[..., NoReturn]:
        return fails


class FailingHistory(telemetry.History):
    def add(self, run: telemetry.Run) -> None:
        fails()


class DoneStep:
    """A step whose output nobody may look at."""

    dtype = "bool"
    size = 1

    def block_until_ready(self) -> None:
        pass

    def __bool__(self) -> bool:
        fails()


def failing_at(number: int) -> Callable[[], float]:
    """A clock that fails once, when it is read for the so manieth time."""
    readings = iter(range(10_000))

    def clock() -> float:
        now = next(readings)
        return fails() if now == number else float(now)

    return clock


def going_back() -> Callable[[], float]:
    readings = iter([*range(100, 110), *range(10, 10_000)])
    return lambda: float(next(readings))


def unreadable_forecast() -> Forecast:
    denoise = StageForecast(StageName.DENOISE, None, False, 1.0, "much")  # type: ignore[arg-type]
    return Forecast("a plan of another version", None, (denoise,))


Options = dict[str, Any]
FAULTS: dict[str, Callable[[], Options]] = {
    "memory at first": lambda: {"devices": [Chip(fails, {"bytes_in_use": GIB})]},
    "memory at last": lambda: {"devices": [Chip({"bytes_in_use": GIB}, fails)]},
    "memory always": lambda: {"devices": [Chip(fails)]},
    "memory that is no number": lambda: {"devices": [Chip({"bytes_in_use": "1 GiB"})]},
    "live arrays": lambda: {"devices": [ArraysGone()]},
    "the device's id": lambda: {"devices": [Nameless()]},
    "the device's kind": lambda: {"devices": [Kindless()]},
    "the clock at first": lambda: {"clock": failing_at(0)},
    "the clock in a step": lambda: {"clock": failing_at(25)},
    "the clock always": lambda: {"clock": fails},
    "a clock that goes back": lambda: {"clock": going_back()},
    "the time of day": lambda: {"wall_clock": fails},
    "a time of day without a date": lambda: {"wall_clock": lambda: 1e300},
    "the profiler": lambda: {"profiler": FailingProfiler()},
    "the history": lambda: {"history": FailingHistory()},
    "the forecast": lambda: {"forecast": unreadable_forecast()},
}


@pytest.fixture(params=FAULTS)
def faulty(request: pytest.FixtureRequest) -> Options:
    return FAULTS[request.param]()


def record(bench: Bench, options: Options, output: Any = None) -> Any:
    """A whole run, with the block's own result."""
    with telemetry.run("test", **{"bus": bench.bus, "history": bench.history, **options}) as run:
        with run.stage("load"):
            weights = "weights"
        with run.stage("denoise", steps=STEPS, flops_per_step=1e12) as stage:
            for _ in range(STEPS):
                stage.step(output)
    return weights, run


def final(bench: Bench) -> RunReport:
    finished = [event for event in bench.events.drain() if isinstance(event, RunFinished)]
    assert len(finished) == 1
    return finished[0].report


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_whatever_fails_the_run_ends_with_its_own_result_and_one_warning(
    bench: Bench, faulty: Options, caplog: pytest.LogCaptureFixture
) -> None:
    weights, run = record(bench, faulty)
    assert weights == "weights"
    report = final(bench)
    assert (report.status, report.error) == ("succeeded", None)
    assert [stage.status for stage in report.stages] == ["succeeded", "succeeded"]
    assert run.report == report
    said = warnings(caplog)
    assert len(said) == len(set(said)) >= 1
    assert len({warning.partition(":")[0] for warning in said}) == len(said)  # once a kind
    telemetry.to_wire(report)


def test_whatever_fails_the_users_own_error_comes_out_as_itself(bench: Bench, faulty: Options) -> None:
    own = RuntimeError("chip on fire")
    with pytest.raises(RuntimeError) as raised:
        with telemetry.run("test", **{"bus": bench.bus, "history": bench.history, **faulty}) as run:
            with run.stage("denoise") as stage:
                stage.step(None)
                raise own
    assert raised.value is own
    report = final(bench)
    assert (report.status, report.error) == ("failed", "RuntimeError: chip on fire")
    assert report.stages[0].error == "RuntimeError: chip on fire"


@pytest.mark.parametrize(
    "readings",
    [(fails, {"bytes_in_use": GIB}), ({"bytes_in_use": GIB}, fails), ({"bytes_in_use": GIB}, {})],
    ids=["first", "last", "last by another method"],
)
def test_memory_that_could_not_be_read_is_absent(bench: Bench, readings: Any) -> None:
    chip: Any = Chip(*readings)
    chip.client = type("Client", (), {"live_arrays": staticmethod(list)})
    with telemetry.run("test", devices=[chip], bus=bench.bus, history=bench.history) as run:
        with run.stage("load"):
            pass
    assert run.report.stages[0].hbm == ()
    assert run.report.device is not None


def test_the_next_stage_has_the_memory_that_can_be_read_again(bench: Bench) -> None:
    chip = Chip(fails, {"bytes_in_use": GIB})
    with telemetry.run("test", devices=[chip], bus=bench.bus, history=bench.history) as run:
        for name in ("load", "save"):
            with run.stage(name):
                pass
    assert [len(stage.hbm) for stage in run.report.stages] == [0, 1]


def test_times_that_the_clock_did_not_tell_are_absent(bench: Bench) -> None:
    record(bench, {"clock": fails})
    report = final(bench)
    assert report.total_seconds is None
    assert [(stage.seconds, stage.steps) for stage in report.stages] == [(None, ()), (None, ())]
    assert abs(report.started_unix_seconds - time.time()) < 600


def test_after_a_clock_went_back_no_time_is_told(bench: Bench) -> None:
    clock = bench.clock
    with bench.run() as run:
        with run.stage("load"):
            clock.advance(2)
        with run.stage("save"):
            clock.advance(-1)
            run.unix_seconds()
            clock.advance(5)
    assert [stage.seconds for stage in run.report.stages] == [2, None]
    assert run.report.total_seconds is None


def test_an_output_that_cannot_be_looked_at_is_neither_finite_nor_not(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    record(bench, {}, DoneStep())
    steps = final(bench).stages[1].steps
    assert [step.finite for step in steps] == [None] * STEPS
    assert warnings(caplog) == ["whether a step's output is finite could not be read: Fault: watching failed"]


def test_without_a_random_number_a_run_has_an_id_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uuid, "uuid4", fails)
    first, second = (record(bench, {})[1].run_id for _ in range(2))
    assert first != second
    assert int(first, 16) < 2**128
    assert len(first) == 32


def test_a_subscriber_that_always_fails_is_one_warning_and_hears_all(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with bench.bus.subscribe(wakeup=fails) as failing:
        record(bench, {})
    assert len(failing.drain()) == len(bench.events.drain())
    assert warnings(caplog) == ["a telemetry subscriber's wakeup failed: Fault: watching failed"]


def test_the_traceback_is_there_for_who_debugs(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), bench.bus.subscribe(wakeup=fails):
        record(bench, {})
    assert caplog.text.count("Traceback (most recent call last)") == 1


def test_compiles_that_cannot_be_told_apart_are_one_warning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiles, "attributed_to", fails)  # as a jax without one of the options would
    record(bench, {})
    assert final(bench).status == "succeeded"
    assert warnings(caplog) == ["compiles cannot be told apart: Fault: watching failed"]


def test_a_system_without_a_thread_to_spare_lets_the_run_go_on_untimed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    waited: list[int] = []

    class Step:
        def __init__(self, number: int) -> None:
            self.number = number

        def block_until_ready(self) -> None:
            waited.append(self.number)

    with telemetry.run("test", bus=bench.bus, history=bench.history) as run:
        with run.stage("denoise") as stage:
            for number in range(3):
                stage.step(Step(number))
                assert waited == list(range(number))  # still no more than one ahead
    assert waited == [0, 1, 2]
    assert run.report.stages[0].steps == ()
    assert warnings(caplog) == ["the steps of a stage cannot be timed: RuntimeError: can't start new thread"]


def test_without_a_thread_the_devices_error_still_ends_the_stage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def block_until_ready(self) -> None:
            raise RuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(threading.Thread, "start", fails)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        with telemetry.run("test", bus=bench.bus, history=bench.history) as run:
            with run.stage("denoise") as stage:
                stage.step(Broken())


def test_ctrl_c_passes_wherever_it_comes(bench: Bench) -> None:
    def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(bench, {"devices": [Chip({"bytes_in_use": GIB}, interrupted, {"bytes_in_use": GIB})]})
    assert final(bench).status == "cancelled"


def test_an_error_that_cannot_be_put_in_words_comes_out_as_itself(bench: Bench) -> None:
    class Wordless(Exception):
        __str__ = fails

    with pytest.raises(Wordless), bench.run() as run, run.stage("save"):
        raise Wordless
    assert run.report.error == "Wordless: <Wordless>"


@pytest.mark.parametrize(
    "wrong", [-1, float("nan"), float("inf"), "13 TFLOP", 10**400, object()], ids=range(6)
)
def test_a_figure_that_can_be_none_is_left_out_and_said(
    bench: Bench, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with bench.run(devices=[Chip()], peak_flops_per_chip=wrong) as run:
        with run.stage("denoise", steps=wrong, flops_per_step=wrong, bytes_per_step=wrong) as stage:
            bench.clock.advance(1)
            for _ in range(3):
                stage.step(None, flops=wrong)
    report = run.report.stages[0]
    assert (report.flops, report.mfu, report.mbu) == (None, None, None)
    left_out = [warning.partition(" is left out")[0] for warning in warnings(caplog)]
    assert left_out == ["peak_flops_per_chip", "steps", "flops_per_step", "bytes_per_step", "flops"]


@pytest.mark.parametrize("content", ["prompt", 7])
def test_content_that_is_no_list_of_names_is_left_out_and_said(
    bench: Bench, caplog: pytest.LogCaptureFixture, content: Any
) -> None:
    with bench.run(params={"prompt": "a boat"}, content_params=content) as run:
        pass
    assert (run.report.status, run.report.content_params) == ("succeeded", None)
    (message,) = caplog.messages
    assert message.startswith("content_params is left out: TypeError: ")


def test_a_peak_of_nothing_is_none(bench: Bench) -> None:
    with bench.run(devices=[Kind("none")], peak_flops_per_chip=0) as run, run.stage("denoise") as stage:
        bench.clock.advance(1)
        stage.step(None, flops=1e12)
    assert run.report.device is not None
    assert (run.report.device.peak_flops_per_chip, run.report.stages[0].mfu) == (None, None)


class Kind(Chip):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.device_kind = kind
