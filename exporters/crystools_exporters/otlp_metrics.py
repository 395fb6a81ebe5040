"""The catalogue as OpenTelemetry instruments: the machine as the monitor sees it, and the runs.

The machine is looked at when the reader collects, which is as often as it exports; a monitor that samples
for somebody else is not asked a second time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource

from crystools_exporters.catalogue import SIMULATED_LABEL, MetricSpec
from crystools_exporters.otel_mapping import EXPORTED, INSTRUMENTS
from crystools_exporters.readers import SnapshotReader
from crystools_exporters.run_metrics import RunMetrics
from crystools_exporters.samples import MAX_AGE_SECONDS, Histogram, Labels, Sampler, Values
from crystools_tpu.telemetry import Event

if TYPE_CHECKING:
    from crystools_tpu.monitor import Snapshot


class OtelMetrics:
    """Instruments for the metrics of the catalogue, filled from events and from snapshots.

    `simulated` names the simulated machine on every point, if it is one.
    """

    def __init__(
        self,
        monitor: Sampler | None,
        reader: MetricReader,
        resource: Resource,
        *,
        simulated: str | None,
        version: str,
    ) -> None:
        self._monitor = monitor
        self._marker = {} if simulated is None else {SIMULATED_LABEL: simulated}
        self._latest: Snapshot | None = None
        self._taken_at: float | None = None
        self._lock = threading.Lock()
        self._histograms: dict[str, HistogramInstrument] = {}
        self._runs = _RecordedRuns(version, self._record)
        self._provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("crystools_tpu", version)
        for spec in EXPORTED:
            self._create(meter, spec)

    def observe(self, event: Event) -> None:
        """Counts one event."""
        with self._lock:
            self._runs.observe(event)

    def shutdown(self) -> None:
        """Exports once more. May wait for a receiver."""
        self._provider.shutdown()

    def _create(self, meter: Meter, spec: MetricSpec) -> None:
        instrument = INSTRUMENTS[spec.name]
        if instrument.kind == "histogram":
            self._histograms[spec.name] = meter.create_histogram(
                instrument.name, instrument.unit, spec.help, explicit_bucket_boundaries_advisory=spec.buckets
            )
            return
        create = {
            "gauge": meter.create_observable_gauge,
            "counter": meter.create_observable_counter,
            "updowncounter": meter.create_observable_up_down_counter,
        }[instrument.kind]
        create(instrument.name, [self._reader(spec)], instrument.unit, spec.help)

    def _reader(self, spec: MetricSpec) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observations(options: CallbackOptions) -> list[Observation]:
            return [  # the protocol has numbers only: whether a source is up is 1 or 0
                Observation(int(value) if isinstance(value, bool) else value, self._attributes(spec, labels))
                for labels, value in self._values(spec)
                if value is not None and not isinstance(value, Histogram) and math.isfinite(value)
            ]

        return observations

    def _values(self, spec: MetricSpec) -> Values:
        if isinstance(spec.reader, SnapshotReader):
            snapshot = self._snapshot()
            return spec.reader.read(snapshot) if snapshot is not None else ()
        with self._lock:
            return [*self._runs.values(spec)]

    def _snapshot(self) -> Snapshot | None:
        """One for all instruments of an export, however long it took: they are read one after the other."""
        if self._monitor is None:
            return None
        if self._taken_at is None or time.monotonic() - self._taken_at > MAX_AGE_SECONDS:
            self._latest = self._monitor.sample(MAX_AGE_SECONDS)
            self._taken_at = time.monotonic()
        return self._latest

    def _record(self, spec: MetricSpec, labels: Labels, value: float) -> None:
        self._histograms[spec.name].record(value, self._attributes(spec, labels))

    def _attributes(self, spec: MetricSpec, labels: Labels) -> dict[str, str]:
        return INSTRUMENTS[spec.name].attributes_of(labels) | self._marker


class _RecordedRuns(RunMetrics):
    """Metrics of runs that hand the observations of histograms to `record` instead of keeping them."""

    def __init__(self, version: str, record: Callable[[MetricSpec, Labels, float], None]) -> None:
        super().__init__(version)
        self._record = record

    def _observe(self, spec: MetricSpec, labels: Labels, value: float, run_id: str) -> None:
        self._record(spec, labels, value)
