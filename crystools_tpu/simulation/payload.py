"""Chip figures as the messages of a TPU runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from tpu_info.device import TpuChip
from tpu_info.proto import tpu_metric_service_pb2 as proto
from tpu_info.proto import tpu_telemetry_pb2 as telemetry

from crystools_tpu.simulation.figures import ChipFigures
from crystools_tpu.simulation.topology import Topology

HBM_TOTAL: Final = "tpu.runtime.hbm.memory.total.bytes"
HBM_USED: Final = "tpu.runtime.hbm.memory.usage.bytes"
DUTY_CYCLE: Final = "tpu.runtime.tensorcore.dutycycle.percent"
HBM_BANDWIDTH: Final = "tpu.runtime.hbm.utilization.percent"
IDLE_SECONDS: Final = "tpu.runtime.tensorcore.idle_duration.seconds"
HLO_QUEUE: Final = "hlo.queue.size.gauge"
HLO_TIMING: Final = "hlo.execution.timing.distribution.microseconds"
TRANSFERS: Final = tuple(
    f"megascale.{name}.cumulative.distribution"
    for name in (
        "dcn_transfer_latencies.microsecond",
        "dcn_inbound_transfer_latencies.microsecond",
        "host_to_device_transfer_latencies.microsecond",
        "device_to_host_transfer_latencies.microsecond",
        "collective_end_to_end_latencies.microsecond",
        "mxla_compute_latencies.microsecond",
        "grpc_tcp_min_rtt.microsecond",
        "grpc_tcp_delivery_rate.Mbps",
    )
)
SDK_TENSORCORE: Final = "simulated.sdk.tensorcore_util"
SDK_HBM: Final = "simulated.sdk.hbm_util"
"""What the rig's stand-in for libtpu's SDK asks for; no real runtime has these."""

METRIC_NAMES: Final = (
    HBM_TOTAL, HBM_USED, DUTY_CYCLE, HBM_BANDWIDTH, IDLE_SECONDS, HLO_QUEUE, HLO_TIMING, *TRANSFERS,
)  # fmt: skip

OrdinalType = Literal["int", "string"]
"""How a runtime writes `device_ordinal` in its HLO metrics: an old one as int, a new one as string."""


def metric_messages(
    name: str, topology: Topology, figures: Sequence[ChipFigures], ids: Sequence[int], ordinal: OrdinalType
) -> list[proto.Metric]:
    """The entries of the metric `name`. `ids` are the device ids, `figures` one for each chip.

    Memory is per device. Duty cycle is per chip, counted from 0, except on 7x, where it is per device.
    Raises `KeyError` for a name that there is not.
    """
    per_chip = topology.devices_per_chip
    by_device = [(id_, figures[index // per_chip]) for index, id_ in enumerate(ids)]
    per_device_duty = per_chip == 1 or topology.chip is TpuChip.V7X
    duty = by_device if per_device_duty else list(enumerate(figures))
    cores = [chip for chip in figures for _ in range(topology.spec.tensorcores)]
    if name in TRANSFERS:
        return [_entry({"buffer-size": "8MB+"}, distribution=_distribution(figures[0].hlo_executions))]
    gauges: Mapping[str, Callable[[], list[proto.Metric]]] = {  # of many chips each takes its time
        HBM_TOTAL: lambda: [_gauge(id_, as_int=chip.hbm_total_bytes // per_chip) for id_, chip in by_device],
        HBM_USED: lambda: [_gauge(id_, as_int=chip.hbm_used_bytes // per_chip) for id_, chip in by_device],
        DUTY_CYCLE: lambda: [_gauge(id_, as_double=chip.duty_cycle_percent) for id_, chip in duty],
        HBM_BANDWIDTH: lambda: [_gauge(id_, as_double=c.hbm_bandwidth_percent) for id_, c in by_device],
        IDLE_SECONDS: lambda: [_gauge(id_, as_double=0.0) for id_, _ in by_device],
        HLO_QUEUE: lambda: [_entry(_core(id_, ordinal), gauge=proto.Gauge(as_int=1)) for id_, _ in by_device],
        HLO_TIMING: lambda: [
            _entry(_core(id_, ordinal), distribution=_distribution(chip.hlo_executions))
            for id_, chip in by_device
        ],
        SDK_TENSORCORE: lambda: [_gauge(i, as_double=c.tensorcore_percent) for i, c in enumerate(cores)],
        SDK_HBM: lambda: [_gauge(i, as_double=c.hbm_bandwidth_percent) for i, c in enumerate(figures)],
    }
    return gauges[name]()


def status_message(topology: Topology, ids: Sequence[int]) -> proto.GetTpuRuntimeStatusResponse:
    """Every core idle, none in error."""
    response = proto.GetTpuRuntimeStatusResponse(host_name="simulated")
    for id_ in ids:
        core = response.core_states[id_]
        core.core_id.chip_id = id_ // topology.devices_per_chip
        core.core_id.core_on_chip.index = id_ % topology.devices_per_chip
        core.core_id.core_on_chip.type = telemetry.TPU_CORE_TYPE_TENSOR_CORE
    return response


def _distribution(count: int) -> proto.Distribution:
    """Values from 1 to 1.96 ms, half of them below 1.4 ms; of none there is no mean."""
    return proto.Distribution(
        count=count,
        mean=1400.0 if count else 0.0,
        bucket_options=proto.Distribution.BucketOptions(
            exponential_buckets=proto.Distribution.BucketOptions.Exponential(
                num_finite_buckets=2, growth_factor=1.4, scale=1000.0
            )
        ),
        bucket_counts=[0, count // 2, count - count // 2, 0],
    )


def _gauge(id_: int, **value: float) -> proto.Metric:
    return proto.Metric(
        attribute=proto.Attribute(key="device-id", value=_value(id_)), gauge=proto.Gauge(**value)
    )


def _core(id_: int, ordinal: OrdinalType) -> Mapping[str, int | str]:
    return {"device_ordinal": id_ if ordinal == "int" else str(id_), "core_type": "TENSOR_CORE"}


def _entry(attributes: Mapping[str, int | str], **measure: object) -> proto.Metric:
    pairs = [proto.Attribute(key=key, value=_value(value)) for key, value in attributes.items()]
    value = proto.AttrValue(kvlist_attr=proto.KeyValueList(attributes=pairs))
    return proto.Metric(attribute=proto.Attribute(key="core", value=value), **measure)


def _value(value: int | str) -> proto.AttrValue:
    return proto.AttrValue(int_attr=value) if isinstance(value, int) else proto.AttrValue(string_attr=value)
