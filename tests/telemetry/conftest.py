"""A bus and a history of the test's own, and a clock that moves only when told."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

from crystools_tpu import telemetry


class Clock:
    """Seconds that pass only by `advance`."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class DeviceStep:
    """Stands for a step's output on a device: computed when the test says so."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self.waited_for = threading.Event()

    def block_until_ready(self) -> None:
        self.waited_for.set()
        assert self._done.wait(30), "the test never finished this step"

    def finish(self) -> None:
        self._done.set()


@dataclass
class Bench:
    """Where a test records its runs: nothing is shared with other tests."""

    clock: Clock = field(default_factory=Clock)
    bus: telemetry.Bus = field(default_factory=telemetry.Bus)
    history: telemetry.History = field(default_factory=telemetry.History)

    def __post_init__(self) -> None:
        self.events = self.bus.subscribe()

    def run(self, pipeline: str = "test", **kwargs: Any) -> AbstractContextManager[telemetry.Run]:
        """A run on the bench's own clock."""
        return self.real_time_run(pipeline, clock=self.clock, **kwargs)

    def real_time_run(self, pipeline: str = "test", **kwargs: Any) -> AbstractContextManager[telemetry.Run]:
        """A run on the real clock."""
        return telemetry.run(pipeline, bus=self.bus, history=self.history, **kwargs)

    def next(self, type_: str) -> Any:
        """The next event of this type; others are passed over. Fails after 30 s without one."""
        while (event := self.events.get(30)) is not None:
            if event.type == type_:
                return event
        raise AssertionError(f"no {type_} event came")


@pytest.fixture
def bench() -> Bench:
    return Bench()
