"""What a scrape of a fleet costs: `python -m benchmarks.scrape [--scrapes N] [--json FILE]`.

256 chips and 50 pipelines, with a real monitor, against prometheus-client's own metrics with as many series,
which it renders with `generate_latest`. The two take turns. Then a day's scrapes, one every 15 seconds, as
fast as they go (some minutes), between which the pipelines go on working.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import prometheus_client
import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric

from benchmarks.telemetry import Figure
from crystools_exporters.prometheus import OPENMETRICS, PrometheusExporter
from crystools_tpu import telemetry
from crystools_tpu.monitor import Monitor, Snapshot
from crystools_tpu.sources.base import (
    ChipReading,
    DiskReading,
    Durations,
    Histograms,
    HloExecutions,
    HostReading,
    Reading,
)
from crystools_tpu.telemetry import (
    CompileCache,
    CompileFinished,
    CompileRecord,
    Event,
    Ratio,
    StageName,
    StepFinished,
    StepRecord,
)

CHIPS = 256
PIPELINES = 50
SCRAPES_A_DAY = 24 * 60 * 60 // 15
SETTLED_AFTER = SCRAPES_A_DAY // 24
GIB = 2**30
BOUNDS = tuple(1e-6 * 1.4**power for power in range(30))


class FleetSource:
    """All chips of a slice; their figures change from read to read."""

    name = "tpu"

    def __init__(self) -> None:
        self._reads = 0

    def read(self) -> Reading:
        """One row a chip, and a histogram of 31 buckets."""
        self._reads += 1
        chips, executions = [], []
        for number in range(CHIPS):
            chip, share = f"tpu{number}", (number + self._reads) % 97 / 97
            used = int(32 * GIB * share)
            chips.append(
                ChipReading(chip, "TPU v6e", used, 32 * GIB, share, share / 2, share / 3, 40 + share)
            )
            counts = tuple(self._reads + number + bucket for bucket in range(len(BOUNDS) + 1))
            durations = Durations(BOUNDS, counts, self._reads * 1.5)
            executions.append(HloExecutions(chip, "tensor_core", durations))
        host = HostReading(0.5, GIB, 2 * GIB, (DiskReading("/", GIB, 2 * GIB),))
        return Reading(tuple(chips), host, Histograms(tuple(executions), ()))

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True)
class Fresh:
    """Takes a sample for every scrape, however young the last one is."""

    monitor: Monitor

    def sample(self, max_age_seconds: float) -> Snapshot:
        """A snapshot taken now."""
        return self.monitor.sample(0.0)


def events(run: int) -> Iterator[Event]:
    """A step and a compile in every stage of every pipeline."""
    mfu = Ratio(0.4, 4.0, 10.0, "flop", "architecture")
    for pipeline in (f"pipeline-{number}" for number in range(PIPELINES)):
        for stage in StageName:
            record = StepRecord(0.01 * 2 ** (run % 16), False, True)
            yield StepFinished(f"{run:032x}", pipeline, 0, stage, run, record, 50, None, mfu, None, None)
            compile_ = CompileRecord("jit(step)", time.time(), 2.0, CompileCache.HIT, None)
            yield CompileFinished(f"{run:032x}", pipeline, 0, stage, compile_, 2.0, False)


def bare_client(families: Iterator[Metric]) -> CollectorRegistry:
    """prometheus-client's own metrics, with the series of these families."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    for family in families:
        if not family.samples:
            continue
        names = tuple(name for name in family.samples[0].labels if name != "le")
        children = {tuple(sample.labels[name] for name in names) for sample in family.samples}
        metric: Gauge | Counter | Histogram
        if family.type == "histogram":
            bounds = sorted(
                {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
            )
            metric = Histogram(family.name, family.documentation, names, buckets=bounds, registry=registry)
        elif family.type == "counter":
            metric = Counter(family.name, family.documentation, names, registry=registry)
        else:
            metric = Gauge(family.name, family.documentation, names, registry=registry)
        for labels in children:
            child = metric.labels(*labels) if names else metric
            child.observe(0.5) if isinstance(child, Histogram) else child.inc(0.5)
    return registry


def series(text: bytes) -> int:
    """How many samples an exposition has."""
    return sum(not line.startswith(b"#") for line in text.splitlines())


def p99(values: list[float]) -> float:
    """The value that a hundredth exceeds."""
    return sorted(values)[int(0.99 * len(values))]


def timed(render: Callable[[], object]) -> tuple[float, float]:
    """Seconds and CPU seconds of one rendering, all threads' together."""
    started, cpu = time.perf_counter(), time.process_time()
    render()
    return time.perf_counter() - started, time.process_time() - cpu


def scrapes_against_bare_client(exporter: PrometheusExporter, rounds: int = 200) -> list[Figure]:
    """The p99 of a scrape over that of the bare client's rendering."""
    registry = bare_client(exporter.collect())
    count, peers = series(exporter.render()[0]), series(generate_latest(registry))
    assert count == peers, f"{count} series against {peers}"
    contenders: tuple[Callable[[], object], ...] = (
        exporter.render,
        lambda: exporter.render(OPENMETRICS),
        lambda: generate_latest(registry),
    )
    rows = [[timed(contender) for contender in contenders] for _ in range(rounds + 5)][5:]
    text, open_, peer = ([p99([row[who][clock] for row in rows]) for clock in (0, 1)] for who in range(3))
    name = f"scrape p99 / generate_latest p99, {count} series"
    return [
        Figure(name, text[0], peer[0], "s", 1.2),
        Figure(name, text[1], peer[1], "s CPU", 1.2),
        Figure("the same as OpenMetrics with exemplars", open_[1], peer[1], "s CPU", 1.2),
    ]


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the process after the first hour's scrapes and after all."""

    scrapes: int
    settled_bytes: int
    end_bytes: int


def day_of_scrapes(exporter: PrometheusExporter, bus: telemetry.Bus, scrapes: int) -> Memory:
    """Between two scrapes every stage of every pipeline takes a step and compiles, of another run each."""
    process = psutil.Process()
    settled = 0
    for scrape in range(scrapes):
        for event in events(scrape):
            bus.publish(event)
        exporter.render(OPENMETRICS if scrape % 2 else "")
        if scrape == min(SETTLED_AFTER, scrapes // 2):
            gc.collect()
            settled = process.memory_info().rss
    gc.collect()
    return Memory(scrapes, settled, process.memory_info().rss)


def main() -> None:
    """Measures all, prints it, and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scrapes", type=int, default=SCRAPES_A_DAY, metavar="N", help="(default: a day's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args()
    monitor, bus = Monitor([FleetSource()]), telemetry.Bus()
    exporter = PrometheusExporter(Fresh(monitor), bus=bus)
    for run in range(17):  # an exemplar for each bucket
        for event in events(run):
            bus.publish(event)
    figures = scrapes_against_bare_client(exporter)
    for figure in figures:
        print(
            f"{figure.name:<52} {figure.ours:.3g} / {figure.peer:.3g} {figure.unit} = {figure.ratio:.3f}"
            f"  ({figure.verdict})",
            flush=True,
        )
    memory = day_of_scrapes(exporter, bus, arguments.scrapes)
    print(
        f"{memory.scrapes} scrapes: {memory.settled_bytes / 2**20:.1f} MiB resident after the first hour's, "
        f"{memory.end_bytes / 2**20:.1f} MiB at the end"
    )
    monitor.stop()
    if arguments.json is not None:
        measured = [{**asdict(figure), "ratio": figure.ratio} for figure in figures]
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        result = {"machine": machine, "figures": measured, "memory": asdict(memory)}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
