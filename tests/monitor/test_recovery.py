"""The monitor over a simulated TPU host: exact figures, and what faults of the runtime do to them."""

from __future__ import annotations

import itertools
import logging
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from crystools_tpu.monitor import Monitor, Snapshot
from crystools_tpu.simulation.machine import Simulation
from crystools_tpu.sources.base import ChipReading

PATIENCE = 30.0


@dataclass
class Watch:
    """A simulation, a monitor on it, and what the monitor published."""

    simulation: Simulation
    monitor: Monitor
    snapshots: queue.Queue[Snapshot] = field(default_factory=queue.Queue)

    def next(self, count: int = 1) -> Snapshot:
        """The last of the next `count` snapshots from now on."""
        while not self.snapshots.empty():
            self.snapshots.get_nowait()
        return [self.snapshots.get(timeout=PATIENCE) for _ in range(count)][-1]

    def until_complete(self) -> Snapshot:
        """The first snapshot in which every source is up."""
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            snapshot = self.snapshots.get(timeout=PATIENCE)
            if all(health.up for health in snapshot.sources):
                return snapshot
        pytest.fail(f"not all sources came up: {self.monitor.health()}")


@pytest.fixture
def watch() -> Iterator[Watch]:
    with Simulation("v6e-8") as simulation:
        monitor = Monitor(simulation.sources(), interval_seconds=0.5, simulated=True)
        watch = Watch(simulation, monitor)
        monitor.start()
        monitor.subscribe(watch.snapshots.put)
        yield watch
        monitor.stop()


def states(snapshot: Snapshot) -> dict[str, str]:
    return {health.source: health.state for health in snapshot.sources}


def test_all_eight_chips_show_with_the_exact_figures_of_the_rig(watch: Watch) -> None:
    snapshot = watch.until_complete()
    assert snapshot.simulated
    assert len(snapshot.chips) == 8
    assert snapshot.chips[0] == ChipReading(
        chip="tpu0",
        kind="TPU v6e",
        hbm_used_bytes=22282 * 2**20,
        hbm_total_bytes=32 * 2**30,
        duty_cycle_ratio=0.84,
        tensorcore_utilization_ratio=0.38,
        hbm_bandwidth_utilization_ratio=0.46,
    )
    for number, (chip, figures) in enumerate(zip(snapshot.chips, watch.simulation.figures(), strict=True)):
        assert chip.chip == f"tpu{number}"
        assert chip.hbm_used_bytes == figures.hbm_used_bytes
        assert chip.duty_cycle_ratio == pytest.approx(figures.duty_cycle_percent / 100)
        assert chip.tensorcore_utilization_ratio == pytest.approx(figures.tensorcore_percent / 100)


def test_a_program_that_ends_leaves_idle_chips_and_the_next_is_seen_within_two_intervals(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    watch.until_complete()
    watch.simulation.runtime.kill()
    gone = watch.next(3)
    assert gone.chips == ()
    assert states(gone) == {"host": "up", "tpu": "idle", "libtpu_sdk": "idle"}
    assert {health.errors_total for health in gone.sources} == {0}
    assert gone.attached is not None
    assert gone.attached.sentence == "8 x v6e, idle: no program uses them"
    assert gone.host is not None
    assert gone.host.cpu_utilization_ratio is not None
    assert gone.host.memory_total_bytes > 0

    watch.simulation.runtime.start()
    back = watch.next(2)
    assert len(back.chips) == 8
    assert back.chips[0].duty_cycle_ratio == 0.84
    assert states(back)["tpu"] == "up"
    assert back.attached is not None
    assert (back.attached.count, back.attached.sentence) == (8, None)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_hung_runtime_delays_no_sample_of_the_others(watch: Watch) -> None:
    watch.until_complete()
    watch.simulation.runtime.hang()
    seen = [watch.next() for _ in range(5)]
    spacing = [b.time_unix_seconds - a.time_unix_seconds for a, b in itertools.pairwise(seen)]
    # An interval and the 50 ms that a snapshot waits for a source that was prompt so far; the runtime's
    # own deadline is 0.8 s, so the smallest spacing would show it if anybody waited for that.
    assert min(spacing) < 0.7
    assert all(health.last_success_unix_seconds for s in seen for health in s.sources[:1])
    hosts = [snapshot.sources[0].last_success_unix_seconds for snapshot in seen]
    assert len(set(hosts)) == len(hosts)
    assert states(seen[-1]) == {"host": "up", "tpu": "down", "libtpu_sdk": "down"}
    assert seen[-1].chips == ()
    assert seen[-1].attached is not None
    assert seen[-1].attached.sentence == "8 x v6e, of which no figures come"

    watch.simulation.runtime.resume()
    assert len(watch.next(4).chips) == 8


def test_nobody_listening_means_no_request_to_the_runtime() -> None:
    with Simulation("v6e-8") as simulation:
        monitor = Monitor(simulation.sources(), interval_seconds=0.1)
        monitor.start()
        time.sleep(0.35)
        assert (monitor.samples_total, simulation.runtime.requests) == (0, [])
        monitor.stop()
