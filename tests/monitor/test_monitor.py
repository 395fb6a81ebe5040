"""The monitor: who is asked, when, and what one source's trouble may do to the others (nothing)."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from crystools_tpu.monitor import Monitor, Snapshot
from crystools_tpu.sources.base import ChipReading, Reading, Source, SourceError, SourceUnavailable

PATIENCE = 30.0
"""Seconds after which a test gives up on something that should come at once."""


class ScriptedSource:
    """Answers with what `answer` gives, and counts."""

    def __init__(self, name: str, answer: Callable[[], Reading]) -> None:
        self.name = name
        self.answer = answer
        self.reads = 0
        self.closed = 0

    def read(self) -> Reading:
        self.reads += 1
        return self.answer()

    def close(self) -> None:
        self.closed += 1


class HangingSource(ScriptedSource):
    """Hangs until it is released; then its read returns."""

    def __init__(self, name: str = "tpu") -> None:
        super().__init__(name, lambda: Reading(chips=(ChipReading("tpu0", duty_cycle_ratio=0.5),)))
        self.released = threading.Event()

    def read(self) -> Reading:
        self.reads += 1
        self.released.wait(PATIENCE)
        return self.answer()


def chips(*readings: ChipReading) -> Callable[[], Reading]:
    return lambda: Reading(chips=readings)


def failing(error: Exception) -> Callable[[], Reading]:
    def answer() -> Reading:
        raise error

    return answer


def steady(name: str = "host") -> ScriptedSource:
    return ScriptedSource(name, chips(ChipReading("gpu0", duty_cycle_ratio=0.25)))


@contextmanager
def running(
    *sources: Source, interval_seconds: float = 0.1, deadline_seconds: float = 1.0
) -> Iterator[tuple[Monitor, queue.Queue[Snapshot]]]:
    """A started monitor and the snapshots of one subscriber."""
    monitor = Monitor(sources, interval_seconds=interval_seconds, deadline_seconds=deadline_seconds)
    snapshots: queue.Queue[Snapshot] = queue.Queue()
    monitor.start()
    monitor.subscribe(snapshots.put)
    try:
        yield monitor, snapshots
    finally:
        for source in sources:
            if isinstance(source, HangingSource):
                source.released.set()
        monitor.stop()


def until(snapshots: queue.Queue[Snapshot], accept: Callable[[Snapshot], bool]) -> Snapshot:
    """The first snapshot that `accept` takes."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        snapshot = snapshots.get(timeout=PATIENCE)
        if accept(snapshot):
            return snapshot
    pytest.fail("no such snapshot came")


def our_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("crystools-tpu-")}


# Nobody listens


def test_without_a_subscriber_nothing_is_sampled_and_no_thread_runs() -> None:
    source = steady()
    monitor = Monitor([source], interval_seconds=0.1)
    monitor.start()
    time.sleep(0.35)
    assert (source.reads, monitor.samples_total, our_threads()) == (0, 0, set())
    monitor.stop()


def test_before_start_a_subscriber_gets_nothing() -> None:
    source = steady()
    monitor = Monitor([source], interval_seconds=0.1)
    snapshots: queue.Queue[Snapshot] = queue.Queue()
    monitor.subscribe(snapshots.put)
    assert our_threads() == set()
    monitor.start()
    assert snapshots.get(timeout=PATIENCE).chips == (ChipReading("gpu0", duty_cycle_ratio=0.25),)
    monitor.stop()


def test_sampling_ends_with_the_last_subscriber_and_starts_again_with_the_next() -> None:
    source = steady()
    with running(source) as (monitor, snapshots):
        snapshots.get(timeout=PATIENCE)
        second: queue.Queue[Snapshot] = queue.Queue()
        unsubscribe = monitor.subscribe(second.put)
        second.get(timeout=PATIENCE)
        unsubscribe()
        unsubscribe()  # twice is once
        until(snapshots, lambda snapshot: True)

    monitor = Monitor([source], interval_seconds=0.1)
    monitor.start()
    unsubscribe = monitor.subscribe(snapshots.put)
    snapshots.get(timeout=PATIENCE)
    unsubscribe()
    while "crystools-tpu-monitor" in our_threads():
        time.sleep(0.01)
    taken = monitor.samples_total
    time.sleep(0.25)
    assert monitor.samples_total == taken
    monitor.subscribe(snapshots.put)
    until(snapshots, lambda snapshot: monitor.samples_total > taken)
    monitor.stop()


# The snapshot


def test_the_first_source_that_knows_a_field_wins() -> None:
    first = ScriptedSource("tpu", chips(ChipReading("tpu0", hbm_used_bytes=10, duty_cycle_ratio=None)))
    second = ScriptedSource(
        "jax_memory", chips(ChipReading("tpu0", kind="TPU v6e", hbm_used_bytes=99, duty_cycle_ratio=0.0))
    )
    monitor = Monitor([first, second], simulated=True, clock=lambda: 1234.5)
    snapshot = monitor.sample(max_age_seconds=0)
    monitor.stop()
    assert snapshot.chips == (ChipReading("tpu0", kind="TPU v6e", hbm_used_bytes=10, duty_cycle_ratio=0.0),)
    assert (snapshot.time_unix_seconds, snapshot.simulated, snapshot.host) == (1234.5, True, None)
    assert [health.last_success_unix_seconds for health in snapshot.sources] == [1234.5, 1234.5]


def test_chips_come_in_order_of_their_number() -> None:
    source = ScriptedSource("tpu", chips(*(ChipReading(f"tpu{n}") for n in (10, 2, 0)), ChipReading("gpu1")))
    monitor = Monitor([source])
    assert [chip.chip for chip in monitor.sample(0).chips] == ["gpu1", "tpu0", "tpu2", "tpu10"]
    monitor.stop()


def test_a_metric_that_nobody_has_is_none_and_not_zero() -> None:
    monitor = Monitor([ScriptedSource("tpu", chips(ChipReading("tpu0")))])
    (chip,) = monitor.sample(0).chips
    monitor.stop()
    assert chip.hbm_used_bytes is None
    assert chip.duty_cycle_ratio is None
    assert chip.tensorcore_utilization_ratio is None


# Trouble


def test_an_exception_of_any_kind_does_not_end_the_monitoring() -> None:
    source = ScriptedSource("tpu", failing(ZeroDivisionError("a fault in the source")))
    with running(source, steady()) as (_, snapshots):
        snapshot = until(snapshots, lambda snapshot: snapshot.sources[0].up is False)
        assert snapshot.sources[0].error == "ZeroDivisionError: a fault in the source"
        source.answer = chips(ChipReading("tpu0", duty_cycle_ratio=0.5))
        snapshot = until(snapshots, lambda snapshot: snapshot.sources[0].up is True)
        assert snapshot.chips[1] == ChipReading("tpu0", duty_cycle_ratio=0.5)
        assert snapshot.sources[0].error is None


def test_one_source_that_fails_leaves_the_others_alone() -> None:
    broken = ScriptedSource("tpu", failing(SourceError("the runtime is gone")))
    with running(broken, steady()) as (monitor, snapshots):
        for errors in (1, 2, 3):
            snapshot = snapshots.get(timeout=PATIENCE)
            assert snapshot.chips == (ChipReading("gpu0", duty_cycle_ratio=0.25),)
            assert [health.up for health in snapshot.sources] == [False, True]
            assert snapshot.sources[0].errors_total == errors
        assert monitor.health()[0].error == "the runtime is gone"


def test_a_failing_source_is_asked_at_every_interval_so_that_its_return_shows_at_once() -> None:
    source = ScriptedSource("tpu", failing(SourceError("gone")))
    with running(source) as (_, snapshots):
        until(snapshots, lambda snapshot: snapshot.sources[0].errors_total >= 4)
        source.answer = chips(ChipReading("tpu0"))
        after = [snapshots.get(timeout=PATIENCE) for _ in range(2)]
        assert after[-1].sources[0].up is True


def test_a_source_that_hangs_delays_nobody_and_is_not_asked_again() -> None:
    hanging, other = HangingSource(), steady()
    started = time.monotonic()
    with running(hanging, other, deadline_seconds=60.0) as (_, snapshots):
        for number in (1, 2, 3, 4):
            snapshot = snapshots.get(timeout=PATIENCE)
            assert other.reads >= number
            assert snapshot.chips == (ChipReading("gpu0", duty_cycle_ratio=0.25),)
        assert hanging.reads == 1
        # Far from the deadline: nobody waited for it.
        assert time.monotonic() - started < PATIENCE


def test_a_source_that_misses_its_deadline_is_down_once_and_its_late_answer_counts() -> None:
    hanging = HangingSource()
    with running(hanging, steady(), deadline_seconds=0.2) as (_, snapshots):
        down = until(snapshots, lambda snapshot: snapshot.sources[0].up is False)
        assert down.sources[0].error == "no answer within 0.2 s"
        later = [snapshots.get(timeout=PATIENCE) for _ in range(3)]
        assert [snapshot.sources[0].errors_total for snapshot in later] == [1, 1, 1]
        assert hanging.reads == 1
        hanging.released.set()
        back = until(snapshots, lambda snapshot: snapshot.sources[0].up is True)
        assert back.chips[1] == ChipReading("tpu0", duty_cycle_ratio=0.5)


def test_the_last_reading_is_dropped_when_its_source_goes_down() -> None:
    source = ScriptedSource("tpu", chips(ChipReading("tpu0", duty_cycle_ratio=0.5)))
    with running(source) as (_, snapshots):
        until(snapshots, lambda snapshot: len(snapshot.chips) == 1)
        source.answer = failing(SourceError("gone"))
        assert until(snapshots, lambda snapshot: snapshot.sources[0].up is False).chips == ()


def test_after_a_pause_an_old_reading_is_not_shown_as_new() -> None:
    source = HangingSource()
    source.released.set()
    monitor = Monitor([source, steady()], interval_seconds=0.1, deadline_seconds=0.1)
    assert len(monitor.sample(0).chips) == 2
    source.released.clear()
    time.sleep(0.35)  # two intervals and a deadline
    assert [chip.chip for chip in monitor.sample(0).chips] == ["gpu0"]
    source.released.set()
    monitor.stop()


def test_a_source_that_the_machine_lacks_is_no_fault_and_is_asked_rarely() -> None:
    absent = ScriptedSource("nvml", failing(SourceUnavailable("no NVIDIA driver")))
    with running(absent, steady()) as (_, snapshots):
        taken = [snapshots.get(timeout=PATIENCE) for _ in range(12)]
    assert {(health.up, health.errors_total) for s in taken for health in s.sources[:1]} == {(None, 0)}
    assert taken[-1].sources[0].error == "no NVIDIA driver"
    assert absent.reads <= 6


def test_a_subscriber_that_raises_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor([steady()], interval_seconds=0.1)
    monitor.start()
    snapshots: queue.Queue[Snapshot] = queue.Queue()

    def broken(_: Snapshot) -> None:
        raise ValueError("a fault in the subscriber")

    monitor.subscribe(broken)
    monitor.subscribe(snapshots.put)
    for _ in range(2):
        snapshots.get(timeout=PATIENCE)
    monitor.stop()
    assert "a subscriber to the monitor raised" in caplog.text
    assert "a fault in the subscriber" in caplog.text


def test_a_source_that_goes_down_and_comes_back_is_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="crystools_tpu")
    source = ScriptedSource("tpu", failing(SourceError("gone")))
    with running(source) as (_, snapshots):
        until(snapshots, lambda snapshot: snapshot.sources[0].errors_total == 3)
        source.answer = chips()
        until(snapshots, lambda snapshot: snapshot.sources[0].up is True)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "source tpu is down: gone"),
        ("INFO", "source tpu is back"),
    ]


# Rate


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.09, 60.1, float("nan"), float("inf")])
def test_a_bad_interval_is_refused_and_the_monitor_goes_on_at_the_old_one(seconds: float) -> None:
    with running(steady(), interval_seconds=0.2) as (monitor, snapshots):
        with pytest.raises(ValueError, match=r"interval_seconds must be from 0\.1 to 60, got"):
            monitor.interval_seconds = seconds
        assert monitor.interval_seconds == 0.2
        for _ in range(2):
            snapshots.get(timeout=PATIENCE)
    with pytest.raises(ValueError, match="interval_seconds must be"):
        Monitor([], interval_seconds=seconds)


def test_a_new_interval_takes_effect_at_once() -> None:
    with running(steady(), interval_seconds=60.0) as (monitor, snapshots):
        snapshots.get(timeout=PATIENCE)
        monitor.interval_seconds = 0.1
        for _ in range(3):
            snapshots.get(timeout=PATIENCE)


# One-off samples


def test_a_sample_that_is_young_enough_is_given_again() -> None:
    source = steady()
    monitor = Monitor([source])
    first = monitor.sample(max_age_seconds=0)
    assert monitor.sample(max_age_seconds=60) is first
    assert monitor.sample(max_age_seconds=0) is not first
    assert (source.reads, monitor.samples_total) == (2, 2)
    monitor.stop()


def test_a_one_off_sample_waits_for_a_slow_source_but_never_for_one_that_hangs() -> None:
    released = threading.Event()

    def slow() -> Reading:
        released.wait(0.2)
        return Reading(chips=(ChipReading("tpu0"),))

    hanging = HangingSource("libtpu_sdk")
    monitor = Monitor([ScriptedSource("tpu", slow), hanging, steady()], deadline_seconds=0.5)
    assert [chip.chip for chip in monitor.sample(0).chips] == ["gpu0", "tpu0"]
    released.set()
    monitor.sample(0)
    assert hanging.reads == 1
    hanging.released.set()
    monitor.stop()


# The end


def test_stop_joins_the_threads_and_closes_the_sources() -> None:
    sources = [steady("host"), steady("tpu"), steady("nvml")]
    with running(*sources) as (monitor, snapshots):
        snapshots.get(timeout=PATIENCE)
        monitor.stop()
        assert our_threads() == set()
        assert [source.closed for source in sources] == [1, 1, 1]
        taken = monitor.samples_total
        monitor.start()
        monitor.subscribe(snapshots.put)
        assert our_threads() == set()
        assert monitor.samples_total == taken


def test_stop_leaves_a_source_that_hangs_behind_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    hanging, other = HangingSource(), steady()
    with running(hanging, other, deadline_seconds=0.2) as (monitor, snapshots):
        snapshots.get(timeout=PATIENCE)
        monitor.stop()
        assert "source tpu still hangs: its thread is abandoned" in caplog.text
        assert our_threads() == {"crystools-tpu-tpu"}
        assert (other.closed, hanging.closed) == (1, 0)
        hanging.released.set()
        while our_threads():
            time.sleep(0.01)
        assert hanging.closed == 1


def test_a_monitor_that_never_sampled_closes_its_sources_too() -> None:
    source = steady()
    monitor = Monitor([source])
    monitor.start()
    monitor.stop()
    assert (source.reads, source.closed) == (0, 1)


def test_a_sample_that_cannot_be_put_together_ends_no_sampling(caplog: pytest.LogCaptureFixture) -> None:
    odd = ScriptedSource("odd", chips(None))  # type: ignore[arg-type]
    with running(odd, steady()) as (_, snapshots):
        while odd.reads < 3:
            time.sleep(0.01)
        odd.answer = chips(ChipReading("tpu0", duty_cycle_ratio=0.5))
        until(snapshots, lambda snapshot: [chip.chip for chip in snapshot.chips] == ["gpu0", "tpu0"])
    assert [message.partition(":")[0] for message in caplog.messages] == ["a sample could not be taken"]


def test_a_source_that_cannot_be_closed_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Unclosable(ScriptedSource):
        def close(self) -> None:
            raise OSError("the channel is gone")

    with running(Unclosable("odd", steady().answer), steady()) as (_, snapshots):
        until(snapshots, lambda snapshot: bool(snapshot.chips))
    assert caplog.messages == ["source odd could not be closed: OSError: the channel is gone"]


def test_without_a_thread_to_spare_a_source_is_down_until_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monitor = Monitor([steady()])
    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", no_thread)
        (health,) = monitor.sample(0).sources
    assert (health.up, health.error) == (False, "can't start new thread")
    assert monitor.sample(0).sources[0].up
    monitor.stop()
