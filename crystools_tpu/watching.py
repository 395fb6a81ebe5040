"""What `serve` and ComfyUI put together alike: a machine, this process's runs, and what tells of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from crystools_exporters.exporting import exporting
from crystools_exporters.optional import trace_renderer
from crystools_exporters.prometheus import PrometheusExporter
from crystools_tpu import telemetry
from crystools_tpu.monitor import Monitor
from crystools_tpu.server import Profiling, Served
from crystools_tpu.sources import default_sources
from crystools_tpu.sources.base import Source


def machine(topology: str | None, stack: contextlib.ExitStack) -> Sequence[Source]:
    """The sources of this machine, or of a simulated one that ends with `stack`.

    Raises ValueError for an unknown topology.
    """
    if topology is None:
        return default_sources()
    from crystools_tpu.simulation.machine import Simulation

    return stack.enter_context(Simulation(topology, moving=True)).sources()


@contextlib.contextmanager
def watching(
    monitor: Monitor,
    *,
    simulated: str | None,
    profiles: Path | None,
    price_per_chip_hour: float | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[tuple[Served, PrometheusExporter]]:
    """Runs the monitor and exports for as long as the block lasts. Nothing is sampled until somebody listens.

    `simulated` names the simulated machine; `profiles` is where captures of this process's pipelines go, if
    it runs any.
    """
    with contextlib.ExitStack() as stack:
        monitor.start()
        stack.callback(monitor.stop)
        kept = stack.enter_context(exporting(environ, monitor=monitor, simulated=simulated))
        exporter = PrometheusExporter(monitor, simulated=simulated)
        stack.callback(exporter.close)
        served = Served(
            monitor=monitor,
            history=telemetry.history,
            bus=telemetry.bus,
            kept=kept,
            simulated=simulated,
            metrics_text=exporter.render,
            trace=trace_renderer(),
            profiling=None if profiles is None else Profiling(telemetry.profiler, profiles),
            price_per_chip_hour=price_per_chip_hour,
        )
        yield served, exporter
