"""One kept gRPC channel to one TPU runtime. Importing this module imports gRPC."""

from __future__ import annotations

import logging
import time
from typing import Final

import grpc
from tpu_info.proto import tpu_metric_service_pb2 as proto
from tpu_info.proto.tpu_metric_service_pb2_grpc import RuntimeMetricServiceStub

from crystools_tpu.sources.base import SourceError
from crystools_tpu.sources.tpu_histograms import DISTRIBUTIONS, PortDistributions
from crystools_tpu.sources.tpu_payload import Gauges, Metric, PortMetrics, gauges

_log = logging.getLogger(__name__)

DISTRIBUTIONS_SECONDS: Final = 5.0
"""The distributions, which a scrape wants and the page does not, are asked for no more often."""

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
    """The runtime at `address` (`host:port`).

    Metrics are asked for one after the other: on a kept channel that costs the least CPU by far (a gRPC
    future starts a thread). The total memory, which does not change while a runtime lives, is asked for
    again only when its devices changed or it failed in between.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.secure_channel(address, grpc.local_channel_credentials(), options=_OPTIONS)
        self._stub = RuntimeMetricServiceStub(self._channel)
        self._totals: Gauges = {}
        self._distributions: PortDistributions = {}
        self._distributions_due = 0.0

    def read(self, timeout_seconds: float) -> PortMetrics:
        """Every metric that the runtime has, within `timeout_seconds` altogether. Raises `SourceError`."""
        ends = time.monotonic() + timeout_seconds
        try:
            metrics: PortMetrics = {
                metric: gauges(self._ask(metric.value, ends))
                for metric in Metric
                if metric is not Metric.HBM_TOTAL_BYTES
            }
            if self._totals.keys() != metrics[Metric.HBM_USED_BYTES].keys() or not self._totals:
                self._totals = gauges(self._ask(Metric.HBM_TOTAL_BYTES.value, ends))
        except grpc.RpcError as error:
            self._totals = {}
            raise SourceError(
                f"the TPU runtime at {self._address} did not answer ({error.code().name}); "
                "is a process using the TPU?"
            ) from error
        metrics[Metric.HBM_TOTAL_BYTES] = self._totals
        return metrics

    def distributions(self, timeout_seconds: float) -> PortDistributions:
        """The distributions of at most `DISTRIBUTIONS_SECONDS` ago, none where the runtime did not answer."""
        now = time.monotonic()
        if now >= self._distributions_due:
            self._distributions_due = now + DISTRIBUTIONS_SECONDS
            try:
                self._distributions = {name: self._ask(name, now + timeout_seconds) for name in DISTRIBUTIONS}
            except grpc.RpcError as error:
                self._distributions = {}
                _log.debug("%s gave no distributions (%s)", self._address, error.code().name)
        return self._distributions

    def close(self) -> None:
        """Closes the channel and cancels what is under way."""
        self._channel.close()

    def _ask(self, name: str, ends: float) -> list[proto.Metric]:
        """The metric's entries, none if the runtime does not have it."""
        request = proto.MetricRequest(metric_name=name)
        try:
            response = self._stub.GetRuntimeMetric(request, timeout=max(ends - time.monotonic(), 0.001))
        except grpc.RpcError as error:
            if error.code() in _METRIC_ABSENT:
                return []
            raise
        return list(response.metric.metrics)
