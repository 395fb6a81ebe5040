"""The catalogue as a Prometheus collector: the monitor's snapshot and the runs.

    exporter = PrometheusExporter(monitor)
    body, content_type = exporter.render()          # or REGISTRY.register(exporter)

What is unknown has no sample. There are no `_created` series. In OpenMetrics' format the buckets of runs,
stages, steps and compiles have an exemplar each: the run of the latest observation.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.utils import floatToGoString

from crystools_exporters.catalogue import CATALOGUE, SIMULATED_LABEL, MetricSpec
from crystools_exporters.run_metrics import Exemplar, Histogram, Labels, RunMetrics
from crystools_tpu import __version__
from crystools_tpu.telemetry import Bus, bus

if TYPE_CHECKING:
    from crystools_tpu.monitor import Snapshot
    from crystools_tpu.sources.base import Durations

logger = logging.getLogger(__name__)

MAX_AGE_SECONDS: Final = 0.5
"""A scrape takes a snapshot of its own unless there is one so young."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

OPENMETRICS: Final = "application/openmetrics-text"


class Sampler(Protocol):
    """What the exporter needs of a monitor."""

    def sample(self, max_age_seconds: float) -> Snapshot:
        """A snapshot no older than that."""


_Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
_FAMILIES: Final[Mapping[str, type[_Family]]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}

Values: TypeAlias = Iterable[tuple[Labels, float | None]]
Histograms: TypeAlias = "Iterable[tuple[Labels, Durations | Histogram]]"


def _chips(field: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [((chip.chip,), getattr(chip, field)) for chip in snapshot.chips]


def _chip_kinds(snapshot: Snapshot) -> Values:
    return [((chip.chip, chip.kind), 1) for chip in snapshot.chips if chip.kind is not None]


def _host(field: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [((), getattr(snapshot.host, field))] if snapshot.host is not None else []


def _hlo_executions(snapshot: Snapshot) -> Histograms:
    known = snapshot.histograms.hlo_executions if snapshot.histograms else ()
    return [((one.chip, one.core_type), one.durations) for one in known]


def _megascale_latencies(snapshot: Snapshot) -> Histograms:
    known = snapshot.histograms.megascale_latencies if snapshot.histograms else ()
    return [((one.operation, one.buffer_size), one.durations) for one in known]


def _disks(field: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [
        ((disk.mount,), getattr(disk, field)) for disk in (snapshot.host.disks if snapshot.host else ())
    ]


def _sources(field: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [((health.source,), getattr(health, field)) for health in snapshot.sources]


_SNAPSHOT_READERS: Final[Mapping[str, Callable[[Snapshot], Values]]] = {
    "crystools_tpu_chip_info": _chip_kinds,
    "crystools_tpu_chip_hbm_used_bytes": _chips("hbm_used_bytes"),
    "crystools_tpu_chip_hbm_total_bytes": _chips("hbm_total_bytes"),
    "crystools_tpu_chip_duty_cycle_ratio": _chips("duty_cycle_ratio"),
    "crystools_tpu_chip_tensorcore_utilization_ratio": _chips("tensorcore_utilization_ratio"),
    "crystools_tpu_chip_hbm_bandwidth_utilization_ratio": _chips("hbm_bandwidth_utilization_ratio"),
    "crystools_tpu_chip_temperature_celsius": _chips("temperature_celsius"),
    "crystools_tpu_host_cpu_utilization_ratio": _host("cpu_utilization_ratio"),
    "crystools_tpu_host_memory_used_bytes": _host("memory_used_bytes"),
    "crystools_tpu_host_memory_total_bytes": _host("memory_total_bytes"),
    "crystools_tpu_host_disk_used_bytes": _disks("used_bytes"),
    "crystools_tpu_host_disk_total_bytes": _disks("total_bytes"),
    "crystools_tpu_source_up": _sources("up"),
    "crystools_tpu_source_last_success_timestamp_seconds": _sources("last_success_unix_seconds"),
    "crystools_tpu_source_errors_total": _sources("errors_total"),
}

_SNAPSHOT_HISTOGRAMS: Final[Mapping[str, Callable[[Snapshot], Histograms]]] = {
    "crystools_tpu_chip_hlo_execution_seconds": _hlo_executions,
    "crystools_tpu_megascale_latency_seconds": _megascale_latencies,
}


class PrometheusExporter(Collector):
    """Collects all metrics of the catalogue; without a monitor those of the runs alone.

    `simulated` names the simulated machine, if it is one; `clock` gives the Unix time. `registry` holds this
    collector and no other. Events are counted from its making until `close`, in the publishers' threads (some
    microseconds each), so that none is lost between scrapes; a scrape under way holds no publisher up. A
    metric that fails is logged and left out; the others stay.
    """

    def __init__(
        self,
        monitor: Sampler | None,
        *,
        bus: Bus = bus,
        simulated: str | None = None,
        version: str = __version__,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._monitor = monitor
        self._marker = () if simulated is None else (simulated,)
        self._version = version
        self._runs = RunMetrics(clock)
        self._lock = threading.Lock()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._subscription = bus.subscribe(wakeup=self._count_events)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type. May wait for a sample.

        `accept` is the request's header: OpenMetrics for whoever takes it, else Prometheus' text format.
        """
        if OPENMETRICS in accept:
            text: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE

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
            self._count()
            families = [self._filled_family(spec, snapshot) for spec in CATALOGUE]
        return (family for family in families if family is not None)

    def _snapshot(self) -> Snapshot | None:
        if self._monitor is None:
            return None
        try:
            return self._monitor.sample(MAX_AGE_SECONDS)
        except Exception:
            logger.exception("the monitor could not be sampled")
            return None

    def _filled_family(self, spec: MetricSpec, snapshot: Snapshot | None) -> Metric | None:
        family = self._family(spec)
        try:
            if isinstance(family, HistogramMetricFamily):
                for labels, histogram in self._histograms(spec.name, snapshot):
                    family.add_metric([*labels, *self._marker], *_buckets_and_sum(histogram))
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
        family = _FAMILIES[spec.type](spec.name, spec.help, labels=labels)
        if spec.unit is not None and family.name.endswith(spec.unit):  # OpenMetrics allows no other
            family.unit = spec.unit
        return family

    def _values(self, name: str, snapshot: Snapshot | None) -> Values:
        if name == "crystools_tpu_build_info":
            return [((self._version,), 1)]
        if name in _SNAPSHOT_READERS:
            return _SNAPSHOT_READERS[name](snapshot) if snapshot is not None else ()
        return self._runs.values[name].items()

    def _histograms(self, name: str, snapshot: Snapshot | None) -> Histograms:
        if name in _SNAPSHOT_HISTOGRAMS:
            return _SNAPSHOT_HISTOGRAMS[name](snapshot) if snapshot is not None else ()
        return self._runs.histograms[name].items()

    def _count_events(self) -> None:
        if self._lock.acquire(blocking=False):  # else what came is counted by the next event or scrape
            try:
                self._count()
            finally:
                self._lock.release()

    def _count(self) -> None:
        for event in self._subscription.drain():
            self._runs.observe(event)


def _buckets_and_sum(histogram: Durations | Histogram) -> tuple[list[Any], float]:
    """As `HistogramMetricFamily.add_metric` takes them."""
    counts = list(itertools.accumulate(histogram.counts))
    if not isinstance(histogram, Histogram):
        return list(zip(_bound_texts(histogram.bounds_seconds), counts, strict=True)), histogram.sum_seconds
    exemplars = map(_exemplar, histogram.exemplars)
    return list(zip(_bound_texts(histogram.bounds), counts, exemplars, strict=True)), histogram.sum


def _exemplar(known: Exemplar | None) -> PrometheusExemplar | None:
    if known is None:
        return None
    return PrometheusExemplar({"run_id": known.run_id}, known.value, round(known.time_unix_seconds, 3))


@functools.lru_cache(maxsize=64)
def _bound_texts(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(floatToGoString, bounds), "+Inf")
