"""Named situations of a TPU host, each a sysfs tree with running runtimes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from crystools_tpu.simulation import payload
from crystools_tpu.simulation.figures import plausible_figures
from crystools_tpu.simulation.runtime import FakeRuntime
from crystools_tpu.simulation.sysfs import remove_chip, write_tree
from crystools_tpu.simulation.topology import Topology, parse_topology
from crystools_tpu.sources.tpu import TpuSource


class Scenario(StrEnum):
    """What there is."""

    HEALTHY = "healthy"
    LOST_CHIP = "lost_chip"
    """The last chip fell off the bus, and the runtime no longer knows it."""
    HUNG_RUNTIME = "hung_runtime"
    """The runtime accepts requests and answers none."""
    OLD_RUNTIME = "old_runtime"
    """Integers for device ordinals, and no metric for HBM bandwidth nor idle time."""
    TWO_PROCESSES = "two_processes"
    """Two processes hold half of the chips each, and serve a port each."""


@dataclass(frozen=True, slots=True)
class Rig:
    """A scenario that runs."""

    topology: Topology
    sysfs: Path
    runtimes: tuple[FakeRuntime, ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the runtimes answer."""
        return tuple(runtime.address for runtime in self.runtimes)

    def tpu_source(self, *, timeout_seconds: float = 0.8) -> TpuSource:
        """A source that reads this rig."""
        return TpuSource(sysfs=self.sysfs, addresses=self.addresses, timeout_seconds=timeout_seconds)


@contextlib.contextmanager
def run_scenario(scenario: Scenario, topology: str, folder: Path) -> Iterator[Rig]:
    """Writes the tree under `folder` and runs the runtimes for as long as the context lasts."""
    parsed = parse_topology(topology)
    sysfs = write_tree(folder, parsed)
    if scenario is Scenario.LOST_CHIP:
        remove_chip(sysfs, parsed.chips - 1)
    with contextlib.ExitStack() as stack:
        runtimes = tuple(stack.enter_context(runtime) for runtime in _runtimes(scenario, parsed))
        yield Rig(parsed, sysfs, runtimes)


def _runtimes(scenario: Scenario, topology: Topology) -> Iterator[FakeRuntime]:
    if scenario is Scenario.TWO_PROCESSES:
        yield _part(topology, 0, topology.chips // 2)
        yield _part(topology, topology.chips // 2, topology.chips)
    elif scenario is Scenario.LOST_CHIP:
        yield _part(topology, 0, topology.chips - 1)
    elif scenario is Scenario.OLD_RUNTIME:
        yield FakeRuntime(topology, missing={payload.HBM_BANDWIDTH, payload.IDLE_SECONDS}, ordinal="int")
    else:
        runtime = FakeRuntime(topology)
        if scenario is Scenario.HUNG_RUNTIME:
            runtime.hang()
        yield runtime


def _part(topology: Topology, first: int, end: int) -> FakeRuntime:
    """The runtime of a process that holds the chips from `first` up to `end`, under their own ids."""
    return FakeRuntime(
        dataclasses.replace(topology, chips=end - first),
        figures=plausible_figures(topology)[first:end],
        device_ids=range(first * topology.devices_per_chip, end * topology.devices_per_chip),
    )
