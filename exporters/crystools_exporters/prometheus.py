"""The catalogue as a Prometheus collector: the monitor's snapshot and the runs.

    exporter = PrometheusExporter(monitor)
    body, content_type = exporter.render()          # or REGISTRY.register(exporter)

What is unknown has no sample. There are no `_created` series. In OpenMetrics' format the buckets of runs,
stages, steps and compiles have an exemplar each: the run of the latest observation.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.utils import floatToGoString

from crystools_exporters.catalogue import CATALOGUE, SIMULATED_LABEL, MetricSpec
from crystools_exporters.exposition import END_OF_OPENMETRICS, Exposition, Series
from crystools_exporters.readers import SnapshotReader
from crystools_exporters.run_metrics import RunMetrics
from crystools_exporters.samples import MAX_AGE_SECONDS, Exemplar, Histogram, Sampler, Values
from crystools_tpu import __version__
from crystools_tpu.telemetry import Bus, bus
from crystools_tpu.telemetry.guard import Guard

if TYPE_CHECKING:
    from crystools_tpu.monitor import Snapshot

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

OPENMETRICS: Final = "application/openmetrics-text"
OPENMETRICS_CONTENT_TYPE: Final = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"


_Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
_FAMILIES: Final[Mapping[str, type[_Family]]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}

_T = TypeVar("_T")


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
        self._exposition = Exposition()
        self._runs = RunMetrics(version, clock)
        self._lock = threading.Lock()
        self._guard = Guard(logger)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._subscription = bus.subscribe(wakeup=self._count_events)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type. May wait for a sample.

        `accept` is the request's header: OpenMetrics for whoever takes it, else Prometheus' text format.
        """
        openmetrics = OPENMETRICS in accept

        def text(spec: MetricSpec, series: Iterable[Series]) -> str:
            return self._exposition.family(spec, self._label_names(spec), series, openmetrics=openmetrics)

        families = "".join(self._collect(text))
        if openmetrics:
            return f"{families}{END_OF_OPENMETRICS}".encode(), OPENMETRICS_CONTENT_TYPE
        return families.encode(), CONTENT_TYPE

    def close(self) -> None:
        """Stops counting events."""
        self._subscription.close()

    def describe(self) -> Iterator[Metric]:
        """All metrics without samples: registering the exporter takes no sample."""
        return (self._family(spec, ()) for spec in CATALOGUE)

    def collect(self) -> Iterator[Metric]:
        """All metrics with the samples there are."""
        return iter(self._collect(self._family))

    def _collect(self, form: Callable[[MetricSpec, Iterable[Series]], _T]) -> list[_T]:
        """Each metric that can be read, in its form."""
        snapshot = self._snapshot()
        with self._lock:
            self._count()
            known = ((spec, self._series(spec, snapshot)) for spec in CATALOGUE)
            return [form(spec, series) for spec, series in known if series is not None]

    def _snapshot(self) -> Snapshot | None:
        if self._monitor is None:
            return None
        with self._guard("the monitor could not be sampled"):
            return self._monitor.sample(MAX_AGE_SECONDS)
        return None

    def _series(self, spec: MetricSpec, snapshot: Snapshot | None) -> list[Series] | None:
        with self._guard(f"{spec.name} could not be collected"):
            return [
                ((*labels, *self._marker), value)
                for labels, value in self._values(spec, snapshot)
                if isinstance(value, Histogram) or (value is not None and math.isfinite(value))
            ]
        return None

    def _values(self, spec: MetricSpec, snapshot: Snapshot | None) -> Values:
        if isinstance(spec.reader, SnapshotReader):
            return spec.reader.read(snapshot) if snapshot is not None else ()
        return self._runs.values(spec)

    def _label_names(self, spec: MetricSpec) -> tuple[str, ...]:
        return (*spec.labels, SIMULATED_LABEL) if self._marker else spec.labels

    def _family(self, spec: MetricSpec, series: Iterable[Series]) -> Metric:
        family = _FAMILIES[spec.type](spec.name, spec.help, labels=self._label_names(spec))
        family.unit = spec.suffix_unit
        for labels, value in series:
            if isinstance(family, HistogramMetricFamily):
                assert isinstance(value, Histogram)
                family.add_metric(labels, _buckets(value), value.sum)
            else:
                assert not isinstance(value, Histogram)
                family.add_metric(labels, value)
        return family

    def _count_events(self) -> None:
        if self._lock.acquire(blocking=False):  # else what came is counted by the next event or scrape
            try:
                self._count()
            finally:
                self._lock.release()

    def _count(self) -> None:
        for event in self._subscription.drain():
            with self._guard(f"{event.type} could not be counted"):
                self._runs.observe(event)


def _buckets(histogram: Histogram) -> list[Any]:
    """The buckets as `HistogramMetricFamily.add_metric` takes them."""
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    exemplars = [_exemplar(histogram.exemplars.get(bucket)) for bucket in range(len(bounds))]
    return list(zip(bounds, itertools.accumulate(histogram.counts), exemplars, strict=True))


def _exemplar(known: Exemplar | None) -> PrometheusExemplar | None:
    if known is None:
        return None
    return PrometheusExemplar({"run_id": known.run_id}, known.value, known.time_unix_seconds)
