"""Short jobs push their metrics; a gateway that is not well costs one warning and a bounded wait."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from crystools_exporters.prometheus import PrometheusExporter
from crystools_exporters.pushgateway import push
from crystools_tpu import telemetry
from tests.rigs.ports import free_port

from .conftest import RUN
from .programs import get, running


@contextmanager
def gateway_that_says(answer: bytes, then: bytes | None = None) -> Iterator[str]:
    """Its address. It takes one request, gives the answer, and hangs up, or says `then` again and again."""
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 20)
            connection.sendall(answer)
            while then is not None and not ended.wait(0.02):
                connection.sendall(then)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        thread.join()


def test_a_pushgateway_keeps_the_run_under_job_and_instance(
    exporter: PrometheusExporter, bus: telemetry.Bus, tmp_path: Path
) -> None:
    for event in RUN:
        bus.publish(event)
    with running("prometheus-pushgateway", tmp_path) as url:
        push(url, exporter.registry, instance="host/1")
        push(f"{url}/", exporter.registry)
        groups = json.loads(get(f"{url}/api/v1/metrics"))["data"]
        shown = get(f"{url}/metrics").decode()
    by_instance = sorted((group["labels"] for group in groups), key=lambda labels: labels["instance"])
    assert by_instance == [
        {"job": "crystools-tpu", "instance": instance}
        for instance in sorted(["host/1", socket.gethostname()])
    ]
    labels = 'instance="host/1",job="crystools-tpu",pipeline="wan2.1-t2v"'
    of_the_step = (
        'instance="host/1",job="crystools-tpu",kind="full",pipeline="wan2.1-t2v",stage="denoise",le="5"'
    )
    assert f'\ncrystools_tpu_runs_total{{{labels},status="succeeded"}} 1\n' in shown
    assert f"crystools_tpu_step_duration_seconds_bucket{{{of_the_step}}} 2\n" in shown


def test_a_gateway_that_is_down_is_one_warning(
    exporter: PrometheusExporter, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    push(url, exporter.registry)
    (warning,) = caplog.messages
    assert warning.startswith(f"the metrics could not be pushed to {url}: ")
    assert "Connection refused" in warning


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "HTTP Error 400: Bad Request"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "HTTP Error 503: Busy"),
        (b"no HTTP at all\r\n\r\n", "no HTTP at all"),
    ],
)
def test_a_gateway_that_refuses_is_one_warning(
    exporter: PrometheusExporter, caplog: pytest.LogCaptureFixture, answer: bytes, reason: str
) -> None:
    with gateway_that_says(answer) as url:
        push(url, exporter.registry)
    (warning,) = caplog.messages
    assert warning.startswith(f"the metrics could not be pushed to {url}: ")
    assert reason in warning


@pytest.mark.parametrize(
    ("answer", "then", "reason"),
    [
        (b"", b"", "timed out|no answer within 0.2 s"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x", "no answer within 0.2 s"),
    ],
    ids=["silent", "slow"],
)
def test_a_gateway_that_never_comes_to_an_end_is_not_waited_for(
    exporter: PrometheusExporter, caplog: pytest.LogCaptureFixture, answer: bytes, then: bytes, reason: str
) -> None:
    with gateway_that_says(answer, then) as url:
        push(url, exporter.registry, patience_seconds=0.2)
    (warning,) = caplog.messages
    assert re.search(reason, warning)


def test_a_metric_that_cannot_be_read_is_one_warning_and_nothing_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Collector):
        def collect(self) -> Iterator[Metric]:
            raise KeyError("chip")

    push("http://127.0.0.1:1", Broken())
    assert caplog.messages == ["the metrics could not be pushed to http://127.0.0.1:1: 'chip'"]
