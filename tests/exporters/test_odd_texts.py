"""Texts that have no form in UTF-8, move cursors or never end: every surface writes them, and none raises."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace
from prometheus_client.parser import text_string_to_metric_families

from crystools_exporters.otlp import otlp_exporter
from crystools_exporters.perfetto import perfetto_trace
from crystools_exporters.prometheus import OPENMETRICS, PrometheusExporter
from crystools_exporters.run_log import RunLog
from crystools_exporters.textfile import TextfileWriter
from crystools_tpu import telemetry
from crystools_tpu.sources.base import ChipReading, DiskReading, HostReading
from crystools_tpu.stage_table import stage_text
from crystools_tpu.telemetry import CompileCache, CompileRecord, HbmUsage, ModelFreed, RunFinished, RunReport
from crystools_tpu.telemetry.read_wire import report_from_json

from .conftest import REPORT, RUN, SNAPSHOT, STAGE, FixedMonitor, compile_, stage_finished, step
from .otlp_receivers import receiver, values_of

TEXTS = {
    "half a surrogate pair": "wan \ud83d",
    "a file name in latin-1": os.fsdecode(b"caf\xe9"),
    "NUL": "a\x00b",
    "a terminal's own": "\x1b[2J\x07\x9b",
    "lines and quotes": 'a "b" \\ c\r\nd\te\x0b\x0c\x85\u2028',
    "very long": "x" * 1_000_000,
}


@pytest.fixture(params=TEXTS)
def text(request: pytest.FixtureRequest) -> str:
    return TEXTS[request.param]


def odd_report(text: str) -> RunReport:
    """A run in which every text is the odd one, and a seed has all of its 64 bits."""
    compiled = CompileRecord(text, 1_700_000_030.0, 30.0, CompileCache.MISS, text)
    stage = dataclasses.replace(
        STAGE,
        component=text,
        error=text,
        flops_method=text,
        compiles=(compiled,),
        recompile_reasons=(text,),
        hbm=(HbmUsage(text, 1, 2, 1, None, "memory_stats"),),
    )
    return dataclasses.replace(
        REPORT,
        run_id="0123456789abcdef0123456789abcdef",
        pipeline=text,
        model_id=text,
        params={text: text, "image": text, "seed": 2**64 - 1},
        status=telemetry.Status.FAILED,
        error=text,
        output=text,
        stages=(stage,),
    )


def publish(report: RunReport, bus: telemetry.Bus) -> None:
    started, *_ = RUN
    assert isinstance(started, telemetry.RunStarted)
    running = dataclasses.replace(report, status=telemetry.Status.RUNNING)
    bus.publish(dataclasses.replace(started, report=running))
    for event in (step(1, 4.5), compile_(30.0, CompileCache.MISS), stage_finished()):
        bus.publish(dataclasses.replace(event, pipeline=report.pipeline, run_id=report.run_id))
    bus.publish(telemetry.StageFinished(report.run_id, report.pipeline, 0, report.stages[0]))
    bus.publish(ModelFreed(report.run_id, report.pipeline, report.pipeline, 1, "freed"))
    bus.publish(RunFinished(report))


@pytest.fixture
def odd_machine(text: str, monitor: FixedMonitor) -> FixedMonitor:
    """What the machine calls its parts is odd too."""
    host = HostReading(0.5, 1, 2, (DiskReading(text, 1, 2),))
    chips = (ChipReading(chip="gpu0", kind=text, hbm_used_bytes=1),)
    monitor.snapshot = dataclasses.replace(SNAPSHOT, chips=chips, host=host)
    return monitor


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_metrics(text: str, accept: str, odd_machine: FixedMonitor, exporter: PrometheusExporter,
                 bus: telemetry.Bus) -> None:  # fmt: skip
    publish(odd_report(text), bus)
    body = exporter.render(accept)[0].decode()
    for name in ("runs_total", "host_disk_used_bytes", "chip_info", "stage_hbm_peak_bytes"):
        assert f"\ncrystools_tpu_{name}{{" in body
    if not accept:
        assert len(list(text_string_to_metric_families(body))) > 30
        promtool = shutil.which("promtool")
        if promtool is not None:
            checked = subprocess.run([promtool, "check", "metrics"], input=body.encode(), capture_output=True)
            assert b"error while parsing" not in checked.stderr + checked.stdout


def test_textfile(
    text: str,
    odd_machine: FixedMonitor,
    exporter: PrometheusExporter,
    bus: telemetry.Bus,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish(odd_report(text), bus)
    path = tmp_path / "run.prom"
    TextfileWriter(path, exporter.registry).write()
    assert "\ncrystools_tpu_runs_total{" in path.read_text()
    assert caplog.messages == []


def test_a_textfile_whose_own_name_is_odd(exporter: PrometheusExporter, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.prom")
    TextfileWriter(path, exporter.registry).write()
    assert 'textfile="caf\\\\udce9"' in path.read_text()


def test_history(text: str, tmp_path: Path) -> None:
    report = odd_report(text)
    with RunLog(tmp_path) as log:
        log.write([report])
        assert log.page(10) == (report,)
        assert log.page(10, pipeline=report.pipeline) == (report,)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_otlp(text: str, protocol: Any, odd_machine: FixedMonitor, bus: telemetry.Bus,
              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with receiver(protocol) as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        exporter = otlp_exporter(odd_machine, bus=bus)
        assert exporter is not None
        publish(odd_report(text), bus)
        exporter.close(20)
        *_, run = received.spans
        assert values_of(run.attributes)["crystools_tpu.param.seed"] == str(2**64 - 1)
        assert {"crystools_tpu.runs", "system.filesystem.usage"} <= received.latest_metrics.keys()


def test_perfetto(text: str) -> None:
    trace = Trace.FromString(perfetto_trace(odd_report(text)))
    assert len(trace.packet) > 5


def test_report_and_table(text: str, tmp_path: Path) -> None:
    report = odd_report(text)
    file = tmp_path / "report.json"
    file.write_text(json.dumps(telemetry.to_wire(report)))
    assert report_from_json(file.read_bytes()) == report
    stage_text(report).encode()
