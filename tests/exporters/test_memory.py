"""Scrapes and runs leave no memory behind."""

from __future__ import annotations

import dataclasses
import gc
import tracemalloc

from crystools_exporters.prometheus import OPENMETRICS, PrometheusExporter
from crystools_tpu import telemetry

from .conftest import step


def scrapes(exporter: PrometheusExporter, bus: telemetry.Bus, first: int, count: int) -> int:
    """The bytes held after so many scrapes in both formats, with a step of another run before each."""
    for run in range(first, first + count):
        bus.publish(dataclasses.replace(step(1, 0.01 * 2 ** (run % 16)), run_id=f"{run:032x}"))
        exporter.render()
        exporter.render(OPENMETRICS)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_ten_times_the_scrapes_and_runs_take_no_more_memory(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    tracemalloc.start()
    try:
        settled = scrapes(exporter, bus, 0, 20)
        end = scrapes(exporter, bus, 20, 200)
    finally:
        tracemalloc.stop()
    assert end - settled < 8 * 1024  # 40 bytes a scrape, less than a run's id
