"""The catalogue as a Prometheus collector: the monitor's snapshot and the runs, in the text format.

    exporter = PrometheusExporter(monitor)
    body, content_type = exporter.render()          # or REGISTRY.register(exporter)

What is unknown has no sample. There are no `_created` series.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from crystools_exporters.catalogue import CATALOGUE, SIMULATED_LABEL, MetricSpec
from crystools_exporters.run_metrics import Histogram, RunMetrics
from crystools_exporters.snapshot_metrics import MAX_AGE_SECONDS, SNAPSHOT_READERS, Sampler, Values
from crystools_tpu import __version__
from crystools_tpu.telemetry import Bus, bus

if TYPE_CHECKING:
    from crystools_tpu.monitor import Snapshot

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


_Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
_FAMILIES: Final[Mapping[str, type[_Family]]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


class PrometheusExporter(Collector):
    """Collects all metrics of the catalogue. `simulated` names the simulated machine, if it is one.

    It counts events from its making until `close`, in the publishers' threads (some microseconds each),
    so that none is lost between scrapes. A metric that fails is logged and left out; the others stay.
    """

    def __init__(
        self, monitor: Sampler, *, bus: Bus = bus, simulated: str | None = None, version: str = __version__
    ) -> None:
        self._monitor = monitor
        self._marker = () if simulated is None else (simulated,)
        self._version = version
        self._runs = RunMetrics()
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._subscription = bus.subscribe(wakeup=self._count_events)

    def render(self) -> tuple[bytes, str]:
        """The exposition in Prometheus' text format, and its content type. May wait for a sample."""
        return generate_latest(self._registry), CONTENT_TYPE

    def close(self) -> None:
        """Stops counting events."""
        self._subscription.close()

    def describe(self) -> Iterator[Metric]:
        """All metrics without samples: registering the exporter takes no sample."""
        return map(self._family, CATALOGUE)

    def collect(self) -> Iterator[Metric]:
        """All metrics with the samples there are."""
        snapshot = self._snapshot()
        with self._lock:
            families = [self._filled_family(spec, snapshot) for spec in CATALOGUE]
        return (family for family in families if family is not None)

    def _snapshot(self) -> Snapshot | None:
        try:
            return self._monitor.sample(MAX_AGE_SECONDS)
        except Exception:
            logger.exception("the monitor could not be sampled")
            return None

    def _filled_family(self, spec: MetricSpec, snapshot: Snapshot | None) -> Metric | None:
        family = self._family(spec)
        try:
            if isinstance(family, HistogramMetricFamily):
                for labels, histogram in self._runs.histograms[spec.name].items():
                    family.add_metric([*labels, *self._marker], _cumulative(histogram), histogram.sum)
            else:
                for labels, value in self._values(spec.name, snapshot):
                    if value is not None and math.isfinite(value):
                        family.add_metric([*labels, *self._marker], value)
        except Exception:
            logger.exception("%s could not be collected", spec.name)
            return None
        return family

    def _family(self, spec: MetricSpec) -> _Family:
        labels = (*spec.labels, SIMULATED_LABEL) if self._marker else spec.labels
        return _FAMILIES[spec.type](spec.name, spec.help, labels=labels)

    def _values(self, name: str, snapshot: Snapshot | None) -> Values:
        if name == "crystools_tpu_build_info":
            return [((self._version,), 1)]
        if name in SNAPSHOT_READERS:
            return SNAPSHOT_READERS[name](snapshot) if snapshot is not None else ()
        return self._runs.values[name].items()

    def _count_events(self) -> None:
        with self._lock:
            for event in self._subscription.drain():
                self._runs.observe(event)


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    return list(zip(bounds, itertools.accumulate(histogram.counts), strict=True))
