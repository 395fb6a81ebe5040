"""The fake runtime, as tpu-info's own unmodified client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tpu_info import metrics
from tpu_info.device import TpuChip
from tpu_info.proto import tpu_metric_service_pb2 as proto
from tpu_info.proto.tpu_metric_service_pb2_grpc import RuntimeMetricServiceStub

from crystools_tpu.simulation import payload
from crystools_tpu.simulation.figures import ChipFigures
from crystools_tpu.simulation.runtime import FakeRuntime
from crystools_tpu.simulation.topology import parse_topology

GIB = 2**30


def chip(number: int, hbm_gib: int) -> ChipFigures:
    return ChipFigures(number * GIB, hbm_gib * GIB, 25.0 * number, 10.0 * number, 5.0 * number)


def serve(topology: str, hbm_gib: int, **options: Any) -> FakeRuntime:
    parsed = parse_topology(topology)
    return FakeRuntime(parsed, figures=[chip(n, hbm_gib) for n in range(parsed.chips)], **options)


@pytest.fixture
def v6e() -> Iterator[FakeRuntime]:
    with serve("v6e-4", 32) as runtime:
        yield runtime


@pytest.mark.parametrize(("topology", "hbm_gib"), [("v4-8", 32), ("v5e-4", 16), ("v5p-8", 95), ("v6e-4", 32)])
def test_chip_usage_of_chips_that_are_one_device(topology: str, hbm_gib: int) -> None:
    with serve(topology, hbm_gib) as runtime:
        assert metrics.get_chip_usage(runtime.topology.chip, addr=runtime.address) == [
            metrics.Usage(n, n * GIB, hbm_gib * GIB, 25.0 * n) for n in range(4)
        ]


@pytest.mark.parametrize(("topology", "hbm_gib"), [("v2-8", 16), ("v3-8", 32)])
def test_chip_usage_of_chips_of_two_cores_is_memory_by_core_and_duty_cycle_by_chip(
    topology: str, hbm_gib: int
) -> None:
    with serve(topology, hbm_gib) as runtime:
        assert metrics.get_chip_usage(runtime.topology.chip, addr=runtime.address) == [
            metrics.Usage(core, core // 2 * GIB // 2, hbm_gib * GIB // 2, 25.0 * (core // 2))
            for core in range(8)
        ]


def test_chip_usage_of_7x_needs_the_new_function() -> None:
    with serve("7x-8", 192) as runtime:
        assert metrics.get_chip_usage_new(TpuChip.V7X, addr=runtime.address) == [
            metrics.Usage(core, core // 2 * GIB // 2, 96 * GIB, 25.0 * (core // 2)) for core in range(8)
        ]
        with pytest.raises(AssertionError, match="Metrics not found for all chips"):
            metrics.get_chip_usage(TpuChip.V7X, addr=runtime.address)


def test_the_other_metrics(v6e: FakeRuntime) -> None:
    address = v6e.address
    bandwidth = [(0, 0.0), (1, 10.0), (2, 20.0), (3, 30.0)]
    assert metrics.get_runtime_hbm_utilization(addr=address) == bandwidth
    assert metrics.get_tensorcore_idle_duration(addr=address) == [(n, 0.0) for n in range(4)]
    queues = [metrics.HloQueueSize(n, 1) for n in range(4)]
    assert metrics.get_hlo_queue_size(TpuChip.V6E, addr=address) == queues
    timing = metrics.get_hlo_exec_timing(TpuChip.V6E, addr=address)
    assert [(t.device_id, t.mean, t.p50) for t in timing] == [
        (n, 1400.0, pytest.approx(1400.0)) for n in range(4)
    ]
    latencies = metrics.get_transfer_latency("buffer_transfer_latency", addr=address)
    assert [(t.transfer_size, t.p50) for t in latencies] == [("8MB+", pytest.approx(1400.0))]
    cores = metrics.get_tpuz_info(addr=address)
    assert [(c.global_core_id, c.chip_id, c.core_type) for c in cores] == [
        (n, n, "TPU_CORE_TYPE_TENSOR_CORE") for n in range(4)
    ]


def test_an_old_runtime_writes_ordinals_as_integers() -> None:
    with serve("v6e-4", 32, ordinal="int") as runtime:
        queues = metrics.get_hlo_queue_size(TpuChip.V6E, addr=runtime.address)
    assert [queue.device_id for queue in queues] == [0, 1, 2, 3]


def test_device_ids_may_be_global() -> None:
    with serve("v6e-4", 32, device_ids=(8, 9, 12, 13)) as runtime:
        usage = metrics.get_chip_usage(TpuChip.V6E, addr=runtime.address)
    assert [(u.device_id, u.memory_usage) for u in usage] == [(8, 0), (9, GIB), (12, 2 * GIB), (13, 3 * GIB)]


def test_figures_may_be_set_while_it_serves(v6e: FakeRuntime) -> None:
    v6e.figures = [chip(3, 32)] * 4
    usage = metrics.get_chip_usage(TpuChip.V6E, addr=v6e.address)
    assert [u.duty_cycle_pct for u in usage] == [75.0] * 4


def test_it_lists_the_metrics_it_has(v6e: FakeRuntime) -> None:
    v6e.missing = {payload.HBM_BANDWIDTH}
    with grpc.insecure_channel(v6e.address) as channel:
        response = RuntimeMetricServiceStub(channel).ListSupportedMetrics(
            proto.ListSupportedMetricsRequest(filter="hbm"), timeout=10
        )
    assert [m.metric_name for m in response.supported_metric] == [payload.HBM_TOTAL, payload.HBM_USED]


def test_a_missing_metric_is_not_found_and_a_killed_runtime_unavailable(v6e: FakeRuntime) -> None:
    v6e.missing = {payload.HBM_BANDWIDTH}
    with pytest.raises(grpc.RpcError) as missing:
        metrics.get_runtime_hbm_utilization(addr=v6e.address)
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    v6e.kill()
    with pytest.raises(grpc.RpcError) as killed:
        metrics.get_chip_usage(TpuChip.V6E, addr=v6e.address)
    assert killed.value.code() is grpc.StatusCode.UNAVAILABLE


def test_it_comes_back_on_its_port(v6e: FakeRuntime) -> None:
    port = v6e.port
    v6e.kill()
    v6e.start()
    assert v6e.port == port
    assert len(metrics.get_chip_usage(TpuChip.V6E, addr=v6e.address)) == 4


def test_a_port_in_use_is_an_error(v6e: FakeRuntime) -> None:
    with pytest.raises(RuntimeError, match="Failed to bind"):
        FakeRuntime(v6e.topology, port=v6e.port).start()
