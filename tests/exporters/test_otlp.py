"""Runs and metrics as a real OTLP receiver gets them, and receivers that do not answer."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import pkgutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from crystools_exporters import otlp
from crystools_exporters.exporting import exporting
from crystools_exporters.otlp import _CLOSE_SECONDS, OtlpExporter, otlp_exporter
from crystools_exporters.otlp_receiver import Address, Receiver, diagnosis
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunChanged, RunFinished, StageFinished
from tests.exporters.conftest import GIB, REPORT, FixedMonitor
from tests.exporters.conftest import RUN as EVENTS
from tests.exporters.otlp_receivers import Protocol, Received, receiver, values_of
from tests.exporters.test_perfetto import DENOISE, LOAD, SECOND, START
from tests.rigs.workflow_run import WORKFLOW, with_nan
from tests.web.scenes import Scene

RUN_ID = "0123456789abcdef0123456789abcdef"
RUN = dataclasses.replace(REPORT, run_id=RUN_ID, total_seconds=53.5, stages=(LOAD, DENOISE))
SMALL_QUEUE = {
    "OTEL_BSP_SCHEDULE_DELAY": "1",
    "OTEL_BSP_MAX_QUEUE_SIZE": "8",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
}
PROTOCOLS: list[Protocol] = ["grpc", "http/protobuf"]

Start = Callable[..., OtlpExporter]


@pytest.fixture(scope="module", autouse=True)
def _complaints_stay_here() -> Iterator[None]:
    """OpenTelemetry's threads go on complaining of a receiver that a test has ended."""
    before = set(threading.enumerate())
    theirs = logging.getLogger("opentelemetry")
    theirs.propagate = False
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    theirs.propagate = True


@pytest.fixture
def start(monitor: FixedMonitor, bus: telemetry.Bus, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts an exporter to a receiver, as the environment says."""

    def start(
        received: Received, protocol: Protocol, *, bus: telemetry.Bus = bus, **more: str
    ) -> OtlpExporter:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # so long a lost receiver is tried again
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        exporter = otlp_exporter(monitor, bus=bus, environ=os.environ, version="1.2.3")
        assert exporter is not None
        return exporter

    return start


def publish_run(bus: telemetry.Bus) -> None:
    for position, stage in enumerate(RUN.stages):
        bus.publish(StageFinished(RUN_ID, RUN.pipeline, position, stage))
    bus.publish(RunFinished(RUN))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_run_is_one_trace_of_its_stages_steps_and_compiles(
    protocol: Protocol, start: Start, bus: telemetry.Bus
) -> None:
    with receiver(protocol) as received:
        exporter = start(received, protocol)
        publish_run(bus)
        exporter.close()
        spans = received.spans
    by_id = {span.span_id: span for span in spans}
    assert {span.trace_id.hex() for span in spans} == {RUN_ID}
    assert len(by_id) == len(spans) == 8

    def family(span: Span) -> tuple[str, str | None]:
        return span.name, by_id[span.parent_span_id].name if span.parent_span_id else None

    assert [family(span) for span in spans] == [
        ("load", "wan2.1-t2v"),
        ("denoise", "wan2.1-t2v"),
        ("step", "denoise"),
        ("step", "denoise"),
        ("step", "denoise"),
        ("compile", "denoise"),
        ("compile", "denoise"),
        ("wan2.1-t2v", None),
    ]
    begin = START * SECOND
    assert [
        ((span.start_time_unix_nano - begin) / SECOND, (span.end_time_unix_nano - begin) / SECOND)
        for span in spans
    ] == [(1, 10), (10, 53), (10, 44), (44, 48.5), (48.5, 52.5), (10, 11), (11, 41), (0, 53.5)]


def test_spans_carry_what_the_report_knows_and_not_the_prompt(start: Start, bus: telemetry.Bus) -> None:
    with receiver("grpc") as received:
        exporter = start(received, "grpc", OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=lab")
        publish_run(bus)
        exporter.close()
        _, denoise, first, _, third, _, compiled, run = (
            values_of(span.attributes) for span in received.spans
        )
        resource = values_of(received.traces[0].resource_spans[0].resource.attributes)
        assert b"surfboard" not in received.traces[0].SerializeToString()
    assert run["crystools_tpu.run_id"] == RUN_ID
    assert run["crystools_tpu.param.seed"] == 2025
    assert run["crystools_tpu.device.peak_flops_per_chip"] == 918e12
    assert denoise["crystools_tpu.stage.mfu.numerator"] == 3.0
    assert denoise["crystools_tpu.stage.mfu.method"] == "architecture"
    assert denoise["crystools_tpu.stage.hbm.device"] == ["tpu:0"]
    assert denoise["crystools_tpu.stage.hbm.peak_bytes"] == [20 * GIB]
    assert "crystools_tpu.stage.error" not in denoise
    assert first == {
        "crystools_tpu.step.number": 0,
        "crystools_tpu.step.seconds": 34.0,
        "crystools_tpu.step.compiled": True,
        "crystools_tpu.step.finite": True,
    }
    assert third["crystools_tpu.step.finite"] is False
    assert compiled["crystools_tpu.compile.reason"] == "at latents, now bf16[4]"
    assert resource["service.name"] == "crystools-tpu"
    assert resource["service.version"] == "1.2.3"
    assert resource["host.name"] == socket.gethostname()
    assert resource["deployment.environment.name"] == "lab"


def test_an_error_is_the_status_of_its_stage_and_run_and_a_nan_that_of_its_step(
    start: Start, bus: telemetry.Bus
) -> None:
    error = "RuntimeError: RESOURCE_EXHAUSTED"
    stage = dataclasses.replace(DENOISE, status=telemetry.Status.FAILED, error=error)
    cancelled = dataclasses.replace(LOAD, status=telemetry.Status.CANCELLED, error="KeyboardInterrupt")
    failed = dataclasses.replace(RUN, status=telemetry.Status.FAILED, error=error)
    with receiver("http/protobuf") as received:
        exporter = start(received, "http/protobuf")
        bus.publish(StageFinished(RUN_ID, RUN.pipeline, 0, cancelled))
        bus.publish(StageFinished(RUN_ID, RUN.pipeline, 1, stage))
        bus.publish(RunFinished(failed))
        exporter.close()
        statuses = [(span.name, span.status.message) for span in received.spans if span.status.code]
        assert all(span.status.code != Status.STATUS_CODE_OK for span in received.spans)
    assert statuses == [("denoise", error), ("step", "the output is not finite"), ("wan2.1-t2v", error)]


def test_a_workflows_nodes_are_below_its_run_and_what_ran_in_a_node_below_that(
    start: Start, bus: telemetry.Bus
) -> None:
    stages = WORKFLOW.stages
    with receiver("http/protobuf") as received:
        exporter = start(received, "http/protobuf")
        for position in (0, 1, 3, 4, 2, 6, 7, 5, 8, 9):  # as they end: parts before what they are parts of
            stage = stages[position]
            without_steps = dataclasses.replace(stage, steps=())
            bus.publish(StageFinished(WORKFLOW.run_id, stage.pipeline or "comfyui", position, without_steps))
            bus.publish(RunChanged(WORKFLOW))
        bus.publish(RunFinished(with_nan(WORKFLOW)))
        exporter.close()
        spans = {span.span_id: span for span in received.spans}
    assert len(spans) == 11
    of_run = [
        (span.name, spans[span.parent_span_id].name if span.parent_span_id else None)
        for span in spans.values()
    ]
    assert of_run == [
        ("CheckpointLoaderSimple", "comfyui"),
        ("KSampler", "comfyui"),
        ("load", "Wan21TPUSampler"),
        ("denoise", "Wan21TPUSampler"),
        ("Wan21TPUSampler", "comfyui"),
        ("ImageScale", "LoopOfSomebody"),
        ("ImageScale", "LoopOfSomebody"),
        ("LoopOfSomebody", "comfyui"),
        ("FetchOfSomebody", "comfyui"),
        ("FetchOfSomebody", "comfyui"),
        ("comfyui", None),
    ]
    by_name = {span.name: span for span in spans.values()}
    loop = by_name["LoopOfSomebody"]
    assert (loop.end_time_unix_nano - loop.start_time_unix_nano) / SECOND == 7, "to the end of its last part"
    sampler, run = (values_of(by_name[name].attributes) for name in ("KSampler", "comfyui"))
    assert sampler["crystools_tpu.stage.node.title"] == "Second pass"
    assert sampler["crystools_tpu.stage.host_memory.peak_bytes"] == 3 * GIB
    assert values_of(by_name["denoise"].attributes)["crystools_tpu.pipeline"] == "wan2.1-t2v"
    assert run["crystools_tpu.outcome"] == "succeeded, NaN from step 12"
    assert run["crystools_tpu.name"] == "two passes"
    assert run["crystools_tpu.cached_nodes.class_type"] == ["VAELoader", "CLIPTextEncode", "CLIPTextEncode"]
    assert run["crystools_tpu.param.workflow"] == "5d41402a"
    assert "crystools_tpu.param.prompt" not in run


def points(metric: Metric) -> list[tuple[dict[str, Any], Any]]:
    data = getattr(metric, metric.WhichOneof("data") or "gauge").data_points
    return [(values_of(point.attributes), getattr(point, point.WhichOneof("value"))) for point in data]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_machine_and_the_runs_are_metrics(
    protocol: Protocol, start: Start, bus: telemetry.Bus, monitor: FixedMonitor
) -> None:
    with receiver(protocol) as received:
        exporter = start(received, protocol)
        for event in EVENTS:
            bus.publish(event)
        assert monitor.asked == []  # nobody reads before it is time to export
        exporter.close()
        assert monitor.asked == [0.5]  # once for all
        metrics = received.latest_metrics
    memory = metrics["hw.gpu.memory.usage"]
    assert (memory.unit, memory.sum.is_monotonic) == ("By", False)
    assert points(memory) == [({"hw.id": "tpu0"}, 12 * GIB), ({"hw.id": "gpu0"}, GIB)]
    busy = [
        ({"hw.id": "tpu0", "hw.gpu.task": "general"}, 0.97),
        ({"hw.id": "tpu1", "hw.gpu.task": "general"}, 0),
    ]
    assert points(metrics["hw.gpu.utilization"]) == busy
    assert points(metrics["hw.temperature"]) == [({"hw.id": "gpu0"}, 61.0)]
    assert points(metrics["crystools_tpu.chip_tensorcore_utilization"]) == [({"chip": "tpu0"}, 0.41)]
    ended = metrics["crystools_tpu.runs"]
    assert ended.sum.is_monotonic
    assert ended.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    assert points(ended) == [
        ({"pipeline": "wan2.1-t2v", "status": status}, count)
        for status, count in (("succeeded", 1), ("failed", 0), ("cancelled", 0))
    ]
    (steps,) = metrics["crystools_tpu.step_duration"].histogram.data_points
    assert (steps.count, steps.sum) == (2, 8.5)
    assert steps.explicit_bounds[-1] == 1800.0
    assert points(metrics["crystools_tpu.stage_mfu"]) == [
        ({"pipeline": "wan2.1-t2v", "stage": "denoise"}, 0.375)
    ]


def test_a_simulated_machine_is_marked_on_every_point(
    bus: telemetry.Bus, monitor: FixedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver("grpc") as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", received.endpoint)
        environ = {
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": received.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
        exporter = otlp_exporter(monitor, bus=bus, simulated="v6e-8", environ=environ)
        assert exporter is not None
        publish_run(bus)
        exporter.close()
        assert received.traces == []  # metrics alone have an endpoint
        for metric in received.latest_metrics.values():
            for point in getattr(metric, metric.WhichOneof("data") or "gauge").data_points:
                assert values_of(point.attributes)["simulated"] == "v6e-8", metric.name


@pytest.mark.parametrize("fault", ["hangs", "full", "absent"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_hangs_or_is_full_or_not_there_delays_no_step_and_loses_no_run(
    protocol: Protocol, fault: str, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    with receiver(protocol, hangs=fault == "hangs", full=fault == "full") as received:
        if fault == "absent":
            with socket.create_server(("127.0.0.1", 0)) as closed:
                received.endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        exporter = start(received, protocol, bus=scene.bus, **SMALL_QUEUE)
        with scene.run() as run:
            with run.stage("load"):
                scene.clock.seconds += 3.0
            if fault != "absent":
                assert received.reached.wait(30)  # from here on it hangs, or has refused
            with run.stage("denoise", steps=50) as stage:
                for _ in range(50):
                    scene.step(stage, 4.5)
        (report,) = scene.history.reports()
        assert report.status == telemetry.Status.SUCCEEDED
        assert [step.seconds for step in report.stages[1].steps] == [4.5] * 50
        assert report.total_seconds == 3.0 + 50 * 4.5
        exporter.close(timeout_seconds=0.2)
        assert (received.traces, received.metrics) == ([], [])
        if fault == "hangs":
            assert not received.answers.is_set()
            assert said(caplog) == [
                f"the OTLP receiver {received.endpoint} does not answer: what it was sent last may be lost"
            ]


@pytest.fixture
def said_by_all(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What we say, and what OpenTelemetry says."""
    theirs = logging.getLogger("opentelemetry")
    theirs.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records]
    theirs.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ("spoken", "served", "scheme", "hint"),
    [
        (
            "http/protobuf",
            "grpc",
            "http",
            "gRPC is spoken there: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, "
            "or name the port of HTTP (usually 4318) in OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        (
            "grpc",
            "http/protobuf",
            "http",
            "HTTP is spoken there: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, "
            "or name the port of gRPC (usually 4317) in OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        (
            "http/protobuf",
            "http/protobuf",
            "https",
            "it speaks no TLS: begin OTEL_EXPORTER_OTLP_ENDPOINT with http://",
        ),
        ("grpc", "grpc", "https", "it speaks no TLS: begin OTEL_EXPORTER_OTLP_ENDPOINT with http://"),
    ],
)
def test_a_receiver_that_is_spoken_to_amiss_is_one_line_with_the_variable_to_change(
    spoken: Protocol,
    served: Protocol,
    scheme: str,
    hint: str,
    start: Start,
    bus: telemetry.Bus,
    said_by_all: Callable[[], list[str]],
) -> None:
    with receiver(served) as received:
        received.endpoint = received.endpoint.replace("http:", f"{scheme}:")
        exporter = start(received, spoken, bus=bus, OTEL_EXPORTER_OTLP_TIMEOUT="1")
        publish_run(bus)
        exporter.close(20)
        (line,) = said_by_all()
    assert line.startswith(f"the OTLP receiver {received.endpoint} does not ")
    assert hint in line


def test_a_receiver_with_tls_is_to_be_spoken_to_so(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    with suppress(ssl.SSLError, ConnectionError), listener.accept()[0] as connection:
                        context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        variable = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
        found = diagnosis(Address(endpoint, "http/protobuf", False, variable, "OTEL_EXPORTER_OTLP_PROTOCOL"))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)
    assert found == f"it speaks TLS: begin {variable} with https://"


def test_a_receiver_that_is_not_there_is_one_line_however_often_it_is_tried(
    start: Start, bus: telemetry.Bus, said_by_all: Callable[[], list[str]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    quick = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_METRIC_EXPORT_INTERVAL": "50"}
    exporter = start(Received(endpoint), "http/protobuf", bus=bus, **SMALL_QUEUE, **quick)
    for _ in range(5):
        publish_run(bus)
        threading.Event().wait(0.1)  # so long that it is tried again
    exporter.close(20)
    lines = [line for line in said_by_all() if not line.startswith("Queue ")]
    assert len(lines) == 1
    assert "it cannot be reached (Connection refused)" in lines[0]


def test_lost_and_back_is_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    address = Address("http://[", "grpc", False, "ENDPOINT", "PROTOCOL")
    known = Receiver(address)
    for result in (True, False, False, True, True, False):
        for signal in ("traces", "metrics"):
            assert known.watch(signal, lambda answer=result: answer, failure=False) is result  # type: ignore[misc]
    known.close(unanswered=True)  # which is known by now
    lost = (
        "the OTLP receiver http://[ does not take traces: it gives no reason. They are dropped until it does"
    )
    assert caplog.messages == [lost, "the OTLP receiver http://[ takes metrics again", lost]


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://collector:4318", "http://collector:4318"),
        ("https://me:secret@collector/otlp?key=secret", "https://collector/otlp"),
        ("me:secret@collector:4317", "collector:4317"),
    ],
)
def test_no_password_of_an_address_is_logged(endpoint: str, shown: str) -> None:
    assert Address(endpoint, "grpc", False, "ENDPOINT", "PROTOCOL").shown == shown


def test_an_export_that_raises_is_one_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> str:
        raise KeyError("\udcff")

    known = Receiver(Address("http://[", "grpc", False, "ENDPOINT", "PROTOCOL"))
    assert known.watch("traces", broken, failure="failure") == "failure"
    (line,) = caplog.messages
    assert line.startswith("the OTLP receiver http://[ does not take traces: KeyError: ")


def test_the_users_own_opentelemetry_goes_on_complaining(
    start: Start, bus: telemetry.Bus, said_by_all: Callable[[], list[str]]
) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    with receiver("http/protobuf") as received:
        start(received, "http/protobuf", bus=bus).close()
        assert said_by_all() == []
        theirs = OTLPSpanExporter(endpoint=f"{received.endpoint}/v1/traces")
        theirs.shutdown()  # type: ignore[no-untyped-call]
        theirs.export([])
        assert said_by_all() == ["Exporter already shutdown, ignoring batch"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_hangs_is_waited_for_less_than_a_second(
    protocol: Protocol, start: Start, bus: telemetry.Bus
) -> None:
    with receiver(protocol, hangs=True) as received:
        exporter = start(received, protocol)
        publish_run(bus)
        began = time.monotonic()
        exporter.close()
        waited = time.monotonic() - began
        assert not received.answers.is_set()
    assert 0.8 < waited < 5.0  # it is told to wait 0.9 s; a busy machine adds to it
    assert _CLOSE_SECONDS < 1


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.startswith("crystools_exporters.otlp")]


def test_a_process_that_runs_pipelines_exports_them_as_its_environment_says(
    bus: telemetry.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver("grpc") as received:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "CRYSTOOLS_TPU_HISTORY": "off",
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with exporting(environ, bus=bus, history=telemetry.History()):
            publish_run(bus)
        assert len(received.spans) == 8
        assert "crystools_tpu.runs" in received.latest_metrics
        assert "hw.gpu.memory.usage" not in received.latest_metrics  # there is no monitor


SCRIPT = """
from crystools_tpu import telemetry

with telemetry.run("mine") as run, run.stage("denoise") as stage:
    stage.step(None)
"""


def test_a_script_that_does_no_more_than_report_exports_too_until_it_has_ended() -> None:
    path = os.pathsep.join(str(Path(__file__).parents[2] / part) for part in (".", "exporters"))
    with receiver("http/protobuf") as received:
        environ = {
            **os.environ,
            "PYTHONPATH": path,
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
            "CRYSTOOLS_TPU_HISTORY": "off",
        }
        subprocess.run([sys.executable, "-c", SCRIPT], env=environ, check=True)
        assert [span.name for span in received.spans] == ["denoise", "step", "mine"]
        assert "crystools_tpu.runs" in received.latest_metrics


@pytest.mark.parametrize(
    "broken", ["otlp:otlp_exporter", "run_log_writer:RunLogWriter.close", "otlp:OtlpExporter.close"]
)
def test_whatever_of_it_fails_the_block_ends_with_its_own_result(
    broken: str, bus: telemetry.Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    name = f"crystools_exporters.{broken}"
    done = pkgutil.resolve_name(name) if broken.endswith("close") else lambda *_, **__: None

    def fails(*args: Any, **options: Any) -> Any:
        done(*args, **options)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(name.replace(":", "."), fails)
    with receiver("grpc") as received:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "CRYSTOOLS_TPU_DATA_DIR": str(tmp_path),
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with exporting(environ, bus=bus, history=telemetry.History()) as kept:
            publish_run(bus)
    assert kept is not None
    (line,) = caplog.messages
    assert line.endswith(": RuntimeError: can't start new thread")


def test_without_an_endpoint_nothing_is_started(monitor: FixedMonitor) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    for environ in (
        {},
        {**endpoint, "OTEL_SDK_DISABLED": "true"},
        {**endpoint, "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
    ):
        assert otlp_exporter(monitor, environ=environ) is None


def test_a_package_that_is_not_installed_is_one_line(
    monitor: FixedMonitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}
    assert otlp_exporter(monitor, environ=environ) is None
    hint = (
        "no traces over OTLP although OTEL_EXPORTER_OTLP_ENDPOINT is set: pip install 'crystools-tpu[otel]'"
    )
    assert said(caplog) == [hint]


def test_a_package_that_is_broken_is_one_line_that_names_it(
    monitor: FixedMonitor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    (tmp_path / "halfproto.py").write_text("raise TypeError('Descriptors cannot be created directly')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(otlp, "_traces", lambda *_: importlib.import_module("halfproto"))
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}
    assert otlp_exporter(monitor, environ=environ) is None
    assert said(caplog) == [
        f"no traces over OTLP: halfproto ({tmp_path / 'halfproto.py'}) is there, but cannot be imported "
        "(TypeError: Descriptors cannot be created directly): pip install 'crystools-tpu[otel]'"
    ]


def test_a_variable_that_opentelemetry_cannot_read_stops_no_run(
    monitor: FixedMonitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert otlp_exporter(monitor, environ=environ) is None
    assert said(caplog)[0] == "no traces over OTLP: could not convert string to float: 'soon'"


def test_an_unknown_protocol_is_one_line_for_each_signal(
    monitor: FixedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
    }
    assert otlp_exporter(monitor, environ=environ) is None
    assert said(caplog) == [
        f"no {signal} over OTLP: OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; there are grpc and http/protobuf"
        for signal in ("traces", "metrics")
    ]
