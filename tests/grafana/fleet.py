"""Hosts to scrape, each with server, exporter and chips of its own, and the configuration that finds them."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from crystools_exporters.prometheus import PrometheusExporter
from crystools_tpu import telemetry
from crystools_tpu.monitor import Monitor
from crystools_tpu.server import Served, Server, create_app
from crystools_tpu.simulation.figures import ChipFigures, plausible_figures
from crystools_tpu.simulation.machine import Simulation
from crystools_tpu.simulation.sysfs import remove_chip
from crystools_tpu.sources.base import ChipReading, Reading, Source, SourceError
from crystools_tpu.sources.host import HostSource
from crystools_tpu.telemetry import Event, Ratio, RunFinished, StageFinished, Status, StepFinished

GRAFANA: Final = Path(__file__).parents[2] / "grafana"
TOKEN: Final = "a token of the fleet's"
GIB: Final = 2**30


@dataclass
class Host:
    """One that is scraped; what happens on it goes to its own bus. `name` stands for the address."""

    address: str
    server: Server
    bus: telemetry.Bus
    simulation: Simulation | None = None
    port: int = 0
    name: str = ""

    @property
    def target(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass
class GpuSource:
    """A GPU that says its temperature, until it is broken."""

    name: str = "nvml"
    broken: bool = False

    def read(self) -> Reading:
        if self.broken:
            raise SourceError("the driver does not answer")
        gpu = ChipReading("gpu0", "H100", 20 * GIB, 80 * GIB, 0.5, temperature_celsius=61.0)
        return Reading(chips=(gpu,))

    def close(self) -> None:
        pass


@contextlib.contextmanager
def simulated_host(address: str, topology: str) -> Iterator[Host]:
    """A host with simulated chips, marked so."""
    with Simulation(topology, moving=True) as simulation:
        with served(address, simulation.sources(), simulated=topology) as host:
            host.simulation = simulation
            yield host


@contextlib.contextmanager
def gpu_host(address: str, gpu: GpuSource) -> Iterator[Host]:
    """A host that counts as real: nothing on it is marked as simulated."""
    with served(address, [HostSource(), gpu]) as host:
        yield host


@contextlib.contextmanager
def served(address: str, sources: Sequence[Source], simulated: str | None = None) -> Iterator[Host]:
    """What `crystools-tpu serve --token` does, with a bus of the host's own."""
    bus = telemetry.Bus()
    monitor = Monitor(sources, simulated=simulated is not None)
    monitor.start()
    exporter = PrometheusExporter(monitor, bus=bus, simulated=simulated)
    app = create_app(
        Served(
            monitor=monitor,
            history=telemetry.History(),
            bus=bus,
            simulated=simulated,
            metrics_text=exporter.render,
        ),
        token=TOKEN,
    )
    host = Host(address, Server(app, host=address), bus)
    _, host.port = host.server.start()
    try:
        yield host
    finally:
        host.server.stop()
        exporter.close()
        monitor.stop()


@dataclass
class Recorder:
    """Keeps the events of a real run, to be repeated on other hosts."""

    events: list[Event] = field(default_factory=list)

    @contextlib.contextmanager
    def recording(self, bus: telemetry.Bus) -> Iterator[None]:
        with bus.subscribe(maxlen=100_000) as subscription:
            yield
            self.events += subscription.drain()


def repeat(
    events: Sequence[Event], host: Host, *, step_seconds: float = 1.0, status: Status = Status.SUCCEEDED
) -> None:
    """The same run on another host, with steps of `step_seconds` and this end."""
    for event in events:
        match event:
            case StepFinished(record=record):
                record = dataclasses.replace(record, seconds=step_seconds)
                host.bus.publish(dataclasses.replace(event, record=record))
            case RunFinished(report=report):
                host.bus.publish(RunFinished(dataclasses.replace(report, status=status)))
            case _:
                host.bus.publish(event)


def with_bandwidth(events: Sequence[Event]) -> list[Event]:
    """The same run on a machine whose memory bandwidth is known, as a CPU's is not."""
    mbu = Ratio(0.5, 1.0, 2.0, "byte", "bytes that must move")
    return [
        dataclasses.replace(event, report=dataclasses.replace(event.report, mbu=mbu))
        if isinstance(event, StageFinished)
        else event
        for event in events
    ]


def lose_a_chip_and_idle(simulation: Simulation) -> None:
    """The last chip falls off the bus; those that remain are busy a quarter of the time."""
    runtime = simulation.runtime
    remaining = runtime.topology.chips - 1

    def figures() -> list[ChipFigures]:
        chips = plausible_figures(runtime.topology)[:remaining]
        return [dataclasses.replace(chip, duty_cycle_percent=25.0) for chip in chips]

    runtime.figures = figures
    runtime.device_ids = runtime.device_ids[: remaining * runtime.topology.devices_per_chip]
    remove_chip(simulation.sysfs, remaining)


def write_configuration(
    folder: Path, *, alone: str, slices: Mapping[str, Sequence[Host]], interval: str = "500ms"
) -> Path:
    """The committed configuration and rules with this fleet's targets and a short interval: its path."""
    shutil.copytree(GRAFANA / "rules", folder / "rules")
    targets = folder / "targets"
    targets.mkdir()
    (targets / "token").write_text(TOKEN)
    for name, hosts in slices.items():
        groups = [{"targets": [host.target], "labels": {"slice": name, "host": host.name}} for host in hosts]
        (targets / f"{name or 'none'}.yml").write_text(yaml.safe_dump(groups))
    config: dict[str, Any] = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [alone]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path
