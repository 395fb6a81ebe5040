"""Counts what telemetry events say about runs, for any exporter to read."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from crystools_exporters.catalogue import CATALOGUE, MetricSpec
from crystools_exporters.readers import Built, Changes, EventReader, Happened, InProgress, Nodes
from crystools_exporters.samples import Exemplar, Histogram, Labels, Values
from crystools_tpu.telemetry import Event, RunFinished, RunReport, RunStarted

_READERS: Final[defaultdict[type, list[tuple[MetricSpec, str, Callable[[Any], Changes]]]]] = defaultdict(list)
for _spec in CATALOGUE:
    if isinstance(_spec.reader, EventReader):
        for _event, _read in _spec.reader.read.items():
            _READERS[_event].append((_spec, _spec.type, _read))


class RunMetrics:
    """The state of the catalogue's metrics that events are read for. Not thread-safe.

    `clock` gives the Unix time, of exemplars.
    """

    def __init__(self, version: str, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._values: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
        self._histograms: defaultdict[str, dict[Labels, Histogram]] = defaultdict(dict)
        self._in_progress: defaultdict[str, set[str]] = defaultdict(set)
        self._nodes = Nodes()
        self._read(Built(version))

    def values(self, spec: MetricSpec) -> Values:
        """The series of one metric."""
        return (self._values if spec.buckets is None else self._histograms)[spec.name].items()

    def observe(self, event: Event) -> None:
        """Counts one event."""
        for happened in self._nodes.happenings(event):
            self._read(happened)
        if isinstance(event, (RunStarted, RunFinished)):
            self._count_in_progress(event.report, began=isinstance(event, RunStarted))

    def _count_in_progress(self, report: RunReport, *, began: bool) -> None:
        known = self._in_progress[report.pipeline]
        if began:
            known.add(report.run_id)
        elif report.run_id in known:
            known.remove(report.run_id)
        else:  # it began before anybody counted
            return
        self._read(InProgress(report.pipeline, len(known)))

    def _read(self, event: Happened) -> None:
        for spec, type_, read in _READERS.get(type(event), ()):
            for labels, value in read(event):
                if type_ == "gauge":
                    self._set(spec, labels, value)
                elif value is not None and type_ == "counter":
                    values = self._values[spec.name]
                    values[labels] = values.get(labels, 0) + value
                elif value is not None:
                    self._observe(spec, labels, value, _run_id(event))

    def _set(self, spec: MetricSpec, labels: Labels, value: float | None) -> None:
        values = self._values[spec.name]
        if value is not None:
            values[labels] = value
            return
        for known in [known for known in values if known[: len(labels)] == labels]:
            del values[known]

    def _observe(self, spec: MetricSpec, labels: Labels, value: float, run_id: str) -> None:
        histograms = self._histograms[spec.name]
        if labels not in histograms:
            histograms[labels] = Histogram(spec.buckets or ())
        histograms[labels].observe(Exemplar(run_id, value, round(self._clock(), 3)))


def _run_id(event: Any) -> str:
    run_id: str = event.report.run_id if isinstance(event, RunFinished) else event.run_id
    return run_id
