"""OTLP receivers on loopback, over OpenTelemetry's own protos: gRPC and HTTP, and both may hang."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Protocol = Literal["grpc", "http/protobuf"]


@dataclass
class Received:
    """What came in. While `answers` is not set no request is answered; `reached` is set by the first.

    One that is `full` keeps nothing, and says so.
    """

    endpoint: str = ""
    full: bool = False
    traces: list[trace_service_pb2.ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[metrics_service_pb2.ExportMetricsServiceRequest] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)

    def take(self, request: Any) -> bool:
        """Whether it was kept."""
        self.reached.set()
        self.answers.wait()
        if self.full:
            return False
        kept: list[Any] = self.traces if hasattr(request, "resource_spans") else self.metrics
        kept.append(request)
        return True

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order of their coming."""
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def latest_metrics(self) -> dict[str, Metric]:
        """The metrics of the last export, by name."""
        return {
            metric.name: metric
            for resource in self.metrics[-1].resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def values_of(attributes: Any) -> dict[str, Any]:
    """Attributes as Python has them."""
    pairs: list[KeyValue] = list(attributes)
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind or "string_value")


@contextmanager
def receiver(protocol: Protocol, *, hangs: bool = False, full: bool = False) -> Iterator[Received]:
    """A receiver for as long as the block lasts; one that hangs lets go of its requests at the end."""
    received = Received(full=full)
    if not hangs:
        received.answers.set()
    serve = _grpc_server if protocol == "grpc" else _http_server
    with serve(received):
        try:
            yield received
        finally:
            received.answers.set()


@contextmanager
def _grpc_server(received: Received) -> Iterator[None]:
    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            if not received.take(request):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            if not received.take(request):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    add_traces: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add_metrics: Any = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
    add_traces(Traces(), server)
    add_metrics(Metrics(), server)
    received.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield
    server.stop(0).wait()


@contextmanager
def _http_server(received: Received) -> Iterator[None]:
    requests: dict[str, Any] = {
        "/v1/traces": trace_service_pb2.ExportTraceServiceRequest,
        "/v1/metrics": metrics_service_pb2.ExportMetricsServiceRequest,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/x-protobuf"
            kept = received.take(requests[self.path].FromString(body))
            try:
                self.send_response(200 if kept else 503)
                self.end_headers()
            except OSError:
                pass  # whoever asked has given up

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    received.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield
    finally:
        received.answers.set()
        server.shutdown()
        thread.join()
        server.server_close()
