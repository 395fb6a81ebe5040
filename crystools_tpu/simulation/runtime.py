"""A stand-in for the TPU runtime's metrics: a real gRPC server that speaks tpu-info's own proto."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent import futures
from typing import Any, Self

import grpc
from tpu_info.proto import tpu_metric_service_pb2 as proto
from tpu_info.proto import tpu_metric_service_pb2_grpc as service

from crystools_tpu.simulation.figures import ChipFigures, plausible_figures
from crystools_tpu.simulation.payload import METRIC_NAMES, OrdinalType, metric_messages, status_message
from crystools_tpu.simulation.topology import Topology


class FakeRuntime:
    """Serves `figures` (one a chip, or a function that gives them) on `localhost:port`.

    `device_ids` are as the runtime would number them (global on a slice of several hosts); `missing` are
    metrics that it answers with NOT_FOUND. `figures`, `device_ids` and `missing` may be set while it
    runs. It can be killed and started again on its port, and made to hang. A context manager.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        figures: Sequence[ChipFigures] | Callable[[], Sequence[ChipFigures]] | None = None,
        device_ids: Sequence[int] | None = None,
        missing: Collection[str] = (),
        ordinal: OrdinalType = "string",
        port: int = 0,
    ) -> None:
        self.topology = topology
        self.figures = figures if figures is not None else plausible_figures(topology)
        local_ids = range(topology.chips * topology.devices_per_chip)
        self.device_ids = tuple(local_ids if device_ids is None else device_ids)
        self.missing = missing
        self.ordinal: OrdinalType = ordinal
        self.port = port
        self.requests: list[str] = []
        self._server: grpc.Server | None = None
        self._answering = threading.Event()
        self._answering.set()

    @property
    def address(self) -> str:
        """`localhost:port`; the port is known once it was started."""
        return f"localhost:{self.port}"

    def start(self) -> Self:
        """Starts serving, on the port it had before if it was started before."""
        # Without SO_REUSEPORT a port in use is an error, not a share in somebody else's requests.
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=16, thread_name_prefix="fake-runtime"),
            options=(("grpc.so_reuseport", 0),),
        )
        service.add_RuntimeMetricServiceServicer_to_server(_Servicer(self), self._server)
        self.port = self._server.add_secure_port(self.address, grpc.local_server_credentials())
        self._server.start()
        return self

    def kill(self) -> None:
        """Ends the server at once, as when the process that holds the TPU dies. It may be started again."""
        if self._server is not None:
            self._server.stop(grace=0).wait()
            self._server = None

    def hang(self) -> None:
        """Accepts requests from now on and answers none."""
        self._answering.clear()

    def resume(self) -> None:
        """Answers again, those that still wait included."""
        self._answering.set()

    def close(self) -> None:
        """Ends everything."""
        self.resume()
        self.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def current_figures(self) -> Sequence[ChipFigures]:
        """The figures that it would answer with now, one entry a chip."""
        return self.figures() if callable(self.figures) else self.figures

    def wait_until_answering(self, context: Any) -> None:
        """Holds a request back while the runtime hangs, for as long as its caller waits."""
        while not self._answering.wait(0.02) and context.is_active():
            pass


class _Servicer(service.RuntimeMetricServiceServicer):  # type: ignore[misc]
    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime

    def GetRuntimeMetric(self, request: Any, context: Any) -> Any:
        runtime = self._runtime
        name = request.metric_name
        runtime.requests.append(name)
        runtime.wait_until_answering(context)
        if name in runtime.missing:
            context.abort(grpc.StatusCode.NOT_FOUND, f"metric not found: {name}")
        try:
            metrics = metric_messages(
                name, runtime.topology, runtime.current_figures(), runtime.device_ids, runtime.ordinal
            )
        except KeyError:
            context.abort(grpc.StatusCode.NOT_FOUND, f"metric not found: {name}")
        return proto.MetricResponse(metric=proto.TPUMetric(name=name, metrics=metrics))

    def ListSupportedMetrics(self, request: Any, context: Any) -> Any:
        self._runtime.wait_until_answering(context)
        names = (name for name in METRIC_NAMES if name not in self._runtime.missing)
        supported = [proto.SupportedMetric(metric_name=n) for n in names if request.filter in n]
        return proto.ListSupportedMetricsResponse(supported_metric=supported)

    def GetTpuRuntimeStatus(self, request: Any, context: Any) -> Any:
        self._runtime.wait_until_answering(context)
        return status_message(self._runtime.topology, self._runtime.device_ids)
