"""One kept gRPC channel to one TPU runtime. Importing this module imports gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
from tpu_info.proto import tpu_metric_service_pb2 as proto
from tpu_info.proto.tpu_metric_service_pb2_grpc import RuntimeMetricServiceStub

from crystools_tpu.sources.base import SourceError
from crystools_tpu.sources.tpu_payload import METRICS, Metric, PortMetrics, gauges

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONS: Final = (
    # A runtime that comes back must be seen within two intervals, the shortest of which is 0.2 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.enable_http_proxy", 0),
)

_METRIC_ABSENT: Final = frozenset(
    {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}
)
"""How runtimes of different age say that they do not have a metric."""


class RuntimeClient:
    """The runtime at `address` (`host:port`)."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.secure_channel(address, grpc.local_channel_credentials(), options=_OPTIONS)
        self._stub = RuntimeMetricServiceStub(self._channel)

    def ask(self, timeout_seconds: float) -> PendingMetrics:
        """Asks for all metrics at once, without waiting for any."""
        calls = {
            metric: self._stub.GetRuntimeMetric.future(
                proto.MetricRequest(metric_name=metric.value), timeout=timeout_seconds
            )
            for metric in METRICS
        }
        return PendingMetrics(self._address, calls)

    def close(self) -> None:
        """Closes the channel and cancels what is under way."""
        self._channel.close()


class PendingMetrics:
    """Answers that are on their way from one runtime."""

    def __init__(self, address: str, calls: Mapping[Metric, grpc.Future]) -> None:
        self._address = address
        self._calls = calls

    def result(self) -> PortMetrics:
        """Waits for all answers. Raises `SourceError` if the runtime failed to give one that it has."""
        answers: PortMetrics = {}
        for metric, call in self._calls.items():
            try:
                answers[metric] = gauges(call.result().metric.metrics)
            except grpc.FutureCancelledError:
                raise SourceError(f"the channel to {self._address} was closed") from None
            except grpc.RpcError as error:
                code = error.code()
                if code not in _METRIC_ABSENT:
                    raise SourceError(
                        f"the TPU runtime at {self._address} did not answer ({code.name}); "
                        "is a process using the TPU?"
                    ) from error
        return answers
