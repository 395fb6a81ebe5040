"""The file for node_exporter: whole or not at all, and never anybody's trouble."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crystools_exporters.catalogue import CATALOGUE
from crystools_exporters.prometheus import PrometheusExporter
from crystools_exporters.textfile import HELP, TextfileWriter
from crystools_tpu import telemetry

from .conftest import RUN
from .programs import get, running


class Changing(Collector):
    """A metric that counts how often it was collected, and can wait for the test before it is."""

    def __init__(self) -> None:
        self.collected = threading.Semaphore(0)
        self.count = 0

    def collect(self) -> Iterator[Metric]:
        self.count += 1
        yield GaugeMetricFamily("collected", "How often.", self.count)
        self.collected.release()


def shown_by_node_exporter(folder: Path, tmp_path: Path) -> tuple[str, str]:
    """What it shows of the files in the folder, and what it logs."""
    options = (
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
    )
    with running("prometheus-node-exporter", tmp_path, *options) as url:
        shown = get(f"{url}/metrics").decode()
    return shown, (tmp_path / "prometheus-node-exporter.log").read_text()


def test_node_exporter_shows_the_run(
    exporter: PrometheusExporter, bus: telemetry.Bus, tmp_path: Path
) -> None:
    for event in RUN:
        bus.publish(event)
    folder = tmp_path / "textfile"
    folder.mkdir()

    TextfileWriter(folder / "crystools.prom", exporter.registry).write()

    shown, _ = shown_by_node_exporter(folder, tmp_path)
    assert "\nnode_textfile_scrape_error 0\n" in shown
    of_the_run = 'pipeline="wan2.1-t2v",status="succeeded",textfile="crystools"'
    assert f"\ncrystools_tpu_runs_total{{{of_the_run}}} 1\n" in shown
    of_the_step = 'kind="full",pipeline="wan2.1-t2v",stage="denoise",textfile="crystools",le="5"'
    assert f"\ncrystools_tpu_step_duration_seconds_bucket{{{of_the_step}}} 2\n" in shown
    assert '\ncrystools_tpu_chip_hbm_used_bytes{chip="tpu0",textfile="crystools"} 1.2884901888e+10\n' in shown


def test_it_is_written_at_once_at_each_interval_and_at_the_end(tmp_path: Path) -> None:
    path, metric = tmp_path / "metrics.prom", Changing()
    with TextfileWriter(path, metric, interval_seconds=0.001):
        for _ in range(3):
            assert metric.collected.acquire(timeout=20)
    assert path.read_text().endswith(f'\ncollected{{textfile="metrics"}} {metric.count:.1f}\n')
    assert metric.count >= 4
    assert list(tmp_path.iterdir()) == [path]


def fill_the_disk(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """What is written beside the file goes to a device that is always full."""

    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Path]:
        yield Path("/dev/full")

    patch.setattr("crystools_exporters.textfile.written_whole", full)
    return folder / "metrics.prom"


def read_only(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """A folder in which root may not write either."""
    return Path("/sys/metrics.prom")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (fill_the_disk, "No space left on device"),
        (read_only, "(Permission denied|Read-only file system|Operation not permitted)"),
    ],
)
def test_a_disk_that_is_full_or_read_only_is_one_warning_and_harms_nothing(
    place: Callable[[Path, pytest.MonkeyPatch], Path],
    reason: str,
    exporter: PrometheusExporter,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = place(tmp_path, monkeypatch)
    writer = TextfileWriter(path, exporter.registry)
    writer.write()
    writer.write()
    assert list(tmp_path.iterdir()) == []
    (warning,) = caplog.messages
    assert re.fullmatch(f"the metrics could not be written to {path}: {reason}", warning)


def test_a_file_that_can_be_written_again_is_and_the_next_failure_is_told(
    exporter: PrometheusExporter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "gone"
    writer = TextfileWriter(folder / "metrics.prom", exporter.registry)
    writer.write()
    folder.mkdir()
    writer.write()
    assert (folder / "metrics.prom").read_text().startswith("# HELP crystools_tpu_build_info ")
    (folder / "metrics.prom").unlink()
    folder.rmdir()
    writer.write()
    assert len(caplog.messages) == 2


def test_a_write_that_hangs_is_left_behind_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()

    class Hanging(Collector):
        def collect(self) -> Iterator[Metric]:
            hangs.wait(20)
            return iter(())

    monkeypatch.setattr("crystools_exporters.textfile._LAST_WRITE_SECONDS", 0.05)
    with caplog.at_level(logging.WARNING), TextfileWriter(tmp_path / "metrics.prom", Hanging()):
        pass
    hangs.set()
    assert "still being written" in caplog.text


def test_two_files_in_one_folder_are_both_shown_whole(
    exporter: PrometheusExporter, bus: telemetry.Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one pipeline with the same labels, the second of a version that words its metrics anew."""
    for event in RUN:
        bus.publish(event)
    folder = tmp_path / "textfile"
    folder.mkdir()
    TextfileWriter(folder / "monday.prom", exporter.registry).write()
    reworded = tuple(dataclasses.replace(spec, help=f"{spec.help} In other words.") for spec in CATALOGUE)
    monkeypatch.setattr("crystools_exporters.prometheus.CATALOGUE", reworded)
    TextfileWriter(folder / "tuesday.prom", exporter.registry).write()

    shown, log = shown_by_node_exporter(folder, tmp_path)

    assert "error gathering metrics" not in log
    written = (folder / "monday.prom").read_text().splitlines()
    series = {line.partition("{")[0] for line in written if not line.startswith("#")}
    assert {"crystools_tpu_build_info", "crystools_tpu_stage_duration_seconds_bucket"} <= series
    for name in series:
        of_each = [
            sum(line.startswith(f"{name}{{") and f'textfile="{day}"' in line for line in shown.splitlines())
            for day in ("monday", "tuesday")
        ]
        assert of_each[0] == of_each[1] == sum(line.startswith(f"{name}{{") for line in written), name


def test_help_is_the_same_in_every_version_of_this_package() -> None:
    """A file of another version may lie beside: where the texts differ node_exporter drops one of them."""
    assert HELP == "What it means is in docs/metrics.md of crystools-tpu."


def test_a_metric_that_cannot_be_read_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Collector):
        def collect(self) -> Iterator[Metric]:
            raise KeyError("chip")

    writer = TextfileWriter(tmp_path / "metrics.prom", Broken())
    for _ in range(3):
        writer.write()
    assert caplog.messages == [
        f"the metrics could not be written to {tmp_path / 'metrics.prom'}: KeyError: 'chip'"
    ]
