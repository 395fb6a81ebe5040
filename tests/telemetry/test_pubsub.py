"""The bus: bounded, ordered, never blocking."""

from __future__ import annotations

import pytest

from crystools_tpu import telemetry
from tests.telemetry.conftest import Bench


def events(bench: Bench, count: int) -> None:
    for _ in range(count // 2):
        with bench.run():
            pass


def test_a_slow_subscriber_loses_its_oldest_events_and_a_counter_says_how_many(bench: Bench) -> None:
    slow = bench.bus.subscribe(maxlen=3)
    events(bench, 10)
    assert slow.dropped == 7
    assert [event.type for event in slow.drain()] == ["run_finished", "run_started", "run_finished"]
    assert bench.events.dropped == 0
    assert len(bench.events.drain()) == 10


def test_a_closed_subscription_receives_nothing_and_wakes_its_reader(bench: Bench) -> None:
    subscription = bench.bus.subscribe()
    subscription.close()
    events(bench, 2)
    assert subscription.get() is None


def test_get_gives_up_after_its_timeout(bench: Bench) -> None:
    assert bench.events.get(timeout=0) is None


def test_wakeup_is_called_after_the_event_is_at_hand(bench: Bench) -> None:
    seen: list[str] = []
    subscription = bench.bus.subscribe(wakeup=lambda: seen.extend(e.type for e in subscription.drain()))
    events(bench, 2)
    assert seen == ["run_started", "run_finished"]


def test_a_subscription_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="maxlen is 0"):
        telemetry.Bus().subscribe(maxlen=0)
