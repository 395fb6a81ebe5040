"""Counts what telemetry events say about runs, for any exporter to read."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from crystools_exporters.catalogue import CATALOGUE
from crystools_tpu.telemetry import (
    CompileFinished,
    Event,
    ModelFreed,
    Ratio,
    RunFinished,
    RunReport,
    RunStarted,
    StageFinished,
    Status,
    StepFinished,
)

Labels: TypeAlias = tuple[str, ...]

_ENDS: Final = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)

_BUCKETS: Final = {spec.name: spec.buckets for spec in CATALOGUE if spec.type == "histogram"}


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation, and the run that it was made in."""

    run_id: str
    value: float
    time_unix_seconds: float


class Histogram:
    """Observations in buckets; `counts` has one entry a bound and a last one for what exceeds them all.

    `exemplars` has the latest observation of each bucket that has one.
    """

    def __init__(
        self, bounds: tuple[float, ...], counts: Iterable[int] | None = None, sum_: float = 0.0
    ) -> None:
        self.bounds = bounds
        self.counts = list(counts) if counts is not None else [0] * (len(bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}
        self.sum = sum_

    def observe(self, exemplar: Exemplar) -> None:
        """Counts one observation."""
        bucket = bisect_left(self.bounds, exemplar.value)
        self.counts[bucket] += 1
        self.exemplars[bucket] = exemplar
        self.sum += exemplar.value


class RunMetrics:
    """The state of the catalogue's run metrics, by metric name and label values. Not thread-safe.

    `clock` gives the Unix time, of exemplars.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.values: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
        self.histograms: defaultdict[str, dict[Labels, Histogram]] = defaultdict(dict)
        self._in_progress: set[str] = set()

    def observe(self, event: Event) -> None:
        """Counts one event."""
        match event:
            case StepFinished():
                self._step(event)
            case CompileFinished():
                self._compile(event)
            case StageFinished():
                self._stage(event)
            case RunStarted(report):
                self._in_progress.add(report.run_id)
                self._add("crystools_tpu_runs_in_progress", (report.pipeline,), 1)
                for status in _ENDS:  # an increase is seen only from a value that was there
                    self._add("crystools_tpu_runs_total", (report.pipeline, status.value), 0)
                    self._add("crystools_tpu_run_chip_seconds_total", (report.pipeline, status.value), 0)
            case RunFinished(report):
                self._run(report)
            case ModelFreed():
                self._add("crystools_tpu_components_freed_total", (event.reason,), 1)

    def _run(self, report: RunReport) -> None:
        labels = (report.pipeline, report.status.value)
        self._add("crystools_tpu_runs_total", labels, 1)
        if report.run_id in self._in_progress:  # not so where it began before anybody counted
            self._in_progress.remove(report.run_id)
            self._add("crystools_tpu_runs_in_progress", (report.pipeline,), -1)
        if report.total_seconds is not None:
            name = "crystools_tpu_run_duration_seconds"
            self._observe(name, labels, report.total_seconds, report.run_id)
            if report.device is not None:
                chip_seconds = report.total_seconds * report.device.chips
                self._add("crystools_tpu_run_chip_seconds_total", labels, chip_seconds)

    def _step(self, event: StepFinished) -> None:
        labels = (event.pipeline, event.stage_name.value)
        if event.record.finite is not None:
            self._add("crystools_tpu_nonfinite_steps_total", labels, int(not event.record.finite))
        if not event.record.compiled:
            name = "crystools_tpu_step_duration_seconds"
            self._observe(name, labels, event.record.seconds, event.run_id)
            self._set_ratio("crystools_tpu_stage_mfu_ratio", labels, event.mfu)

    def _compile(self, event: CompileFinished) -> None:
        stage = (event.pipeline, event.stage_name.value)
        labels = (*stage, event.record.cache.value)
        name = "crystools_tpu_compile_duration_seconds"
        self._observe(name, labels, event.record.seconds, event.run_id)
        self._add("crystools_tpu_compiles_total", labels, 1)
        self._add("crystools_tpu_recompiles_total", stage, int(event.recompile))

    def _stage(self, event: StageFinished) -> None:
        report = event.report
        labels = (event.pipeline, report.name.value)
        if report.seconds is not None:
            name = "crystools_tpu_stage_duration_seconds"
            self._observe(name, (*labels, report.status.value), report.seconds, event.run_id)
        self._set_ratio("crystools_tpu_stage_mfu_ratio", labels, report.mfu)
        self._set_ratio("crystools_tpu_stage_mbu_ratio", labels, report.mbu)
        if report.flops is not None:
            self._add("crystools_tpu_model_flops_total", labels, report.flops)
        peaks = self.values["crystools_tpu_stage_hbm_peak_bytes"]
        for old in [known for known in peaks if known[:2] == labels]:
            del peaks[old]
        peaks.update({(*labels, usage.device): usage.peak_bytes for usage in report.hbm})

    def _add(self, name: str, labels: Labels, amount: float) -> None:
        values = self.values[name]
        values[labels] = values.get(labels, 0) + amount

    def _observe(self, name: str, labels: Labels, value: float, run_id: str) -> None:
        histograms = self.histograms[name]
        if labels not in histograms:
            histograms[labels] = Histogram(_BUCKETS[name])
        histograms[labels].observe(Exemplar(run_id, value, round(self._clock(), 3)))

    def _set_ratio(self, name: str, labels: Labels, ratio: Ratio | None) -> None:
        """An unknown ratio has no sample, even where an earlier stage had one."""
        if ratio is None:
            self.values[name].pop(labels, None)
        else:
            self.values[name][labels] = ratio.ratio
