"""libtpu's monitoring, answered by the simulated runtime. Like the real one, it sets no deadline."""

from __future__ import annotations

import os

import grpc
from tpu_info.proto import tpu_metric_service_pb2 as proto
from tpu_info.proto.tpu_metric_service_pb2_grpc import RuntimeMetricServiceStub

ADDRESS_VARIABLE = "CRYSTOOLS_TPU_SIMULATED_RUNTIME"


class Metric:
    """One metric, as the SDK hands it out."""

    def __init__(self, name: str) -> None:
        self._name = name

    def description(self) -> str:
        """What it measures."""
        return f"{self._name} of a simulated TPU, in percent"

    def data(self) -> list[str]:
        """One figure a core or a chip. Raises `RuntimeError` when the runtime is gone."""
        address = os.environ[ADDRESS_VARIABLE]
        with grpc.secure_channel(address, grpc.local_channel_credentials()) as channel:
            request = proto.MetricRequest(metric_name=f"simulated.sdk.{self._name}")
            try:
                response = RuntimeMetricServiceStub(channel).GetRuntimeMetric(request)
            except grpc.RpcError as error:
                raise RuntimeError(error.code().name) from error
        metrics = sorted(response.metric.metrics, key=lambda metric: metric.attribute.value.int_attr)
        return [f"{metric.gauge.as_double:.2f}" for metric in metrics]


def list_supported_metrics() -> list[str]:
    """The names that `get_metric` knows."""
    return ["tensorcore_util", "hbm_util"]


def get_metric(name: str) -> Metric:
    """The metric of that name. Raises `RuntimeError` for one it does not know."""
    if name not in list_supported_metrics():
        raise RuntimeError(f"unsupported metric: {name}")
    return Metric(name)
