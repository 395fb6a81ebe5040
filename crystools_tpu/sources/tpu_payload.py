"""What a TPU runtime's answers mean: from metrics by device to readings by chip. Imports no gRPC."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from statistics import fmean
from typing import TYPE_CHECKING, TypeAlias

from crystools_tpu.sources.base import ChipReading

if TYPE_CHECKING:
    from tpu_info.proto import tpu_metric_service_pb2 as proto


class Metric(Enum):
    """The metrics that are read, by their libtpu names."""

    HBM_TOTAL_BYTES = "tpu.runtime.hbm.memory.total.bytes"
    HBM_USED_BYTES = "tpu.runtime.hbm.memory.usage.bytes"
    DUTY_CYCLE_PERCENT = "tpu.runtime.tensorcore.dutycycle.percent"
    HBM_BANDWIDTH_PERCENT = "tpu.runtime.hbm.utilization.percent"


Gauges: TypeAlias = dict[int, float]
"""A value for each device id."""

PortMetrics: TypeAlias = dict[Metric, Gauges]
"""What one runtime says; a metric that it lacks is empty or has no key."""


def gauges(metrics: Iterable[proto.Metric]) -> Gauges:
    """The gauge of each device. An entry without a device id or a proper number is left out."""
    values: Gauges = {}
    for metric in metrics:
        id_ = device_id(metric.attribute.value)
        kind = metric.gauge.WhichOneof("value")
        if id_ is None or kind not in ("as_int", "as_double"):
            continue
        value = getattr(metric.gauge, kind)
        if math.isfinite(value) and value >= 0:  # libtpu says -1 for a figure that it does not have
            values[id_] = value
    return values


def chip_readings(
    ports: Mapping[str, tuple[PortMetrics, object]],
    kind: str | None,
    devices_per_chip: int | None,
    shifts: dict[str, int],
) -> tuple[ChipReading, ...]:
    """One reading a chip, over all ports, in order of the chips' numbers.

    A chip's number is its device id over `devices_per_chip` (None: told from the answers). Memory is per
    device, a core on v2, v3 and 7x, and adds up. A port whose numbers are taken already, because every
    process counts its own chips from 0, is numbered on from the highest; `shifts` remembers by how much,
    so that its chips keep their names while another port is down.
    """
    numbered: dict[int, ChipReading] = {}
    for address, (port, _) in ports.items():
        per_chip = devices_per_chip or devices_per_chip_of(port)
        used = _sum_by_chip(port.get(Metric.HBM_USED_BYTES, {}), per_chip)
        total = _sum_by_chip(port.get(Metric.HBM_TOTAL_BYTES, {}), per_chip)
        duty = _ratio_by_chip(port, Metric.DUTY_CYCLE_PERCENT, per_chip)
        bandwidth = _ratio_by_chip(port, Metric.HBM_BANDWIDTH_PERCENT, per_chip)
        chips = sorted({*used, *total, *duty, *bandwidth})
        if address not in shifts and numbered.keys() & set(chips):
            shifts[address] = max(numbered) + 1
        shift = shifts.get(address, 0)
        for chip in chips:
            numbered[chip + shift] = ChipReading(
                chip=f"tpu{chip + shift}",
                kind=kind,
                hbm_used_bytes=used.get(chip),
                hbm_total_bytes=total.get(chip),
                duty_cycle_ratio=duty.get(chip),
                hbm_bandwidth_utilization_ratio=bandwidth.get(chip),
            )
    return tuple(numbered[number] for number in sorted(numbered))


def device_id(value: proto.AttrValue) -> int | None:
    """The id, a number or its digits: runtimes of different age have given both for their attributes."""
    match value.WhichOneof("attr"):
        case "int_attr":
            return int(value.int_attr)
        case "string_attr" if value.string_attr.isdecimal():
            return int(value.string_attr)
    return None


def devices_of(port: PortMetrics) -> set[int]:
    """The ids of the devices whose memory is known."""
    return {*port.get(Metric.HBM_USED_BYTES, {}), *port.get(Metric.HBM_TOTAL_BYTES, {})}


def devices_per_chip_of(port: PortMetrics) -> int:
    """Devices a chip, by the answers: 2 where there are two memory figures to each duty cycle, else 1."""
    return 2 if len(devices_of(port)) == 2 * len(port.get(Metric.DUTY_CYCLE_PERCENT, {})) > 0 else 1


def _sum_by_chip(bytes_by_device: Gauges, per_chip: int) -> dict[int, int]:
    """Bytes of each chip all of whose devices are there: half a chip is no figure."""
    groups = _group(bytes_by_device, per_chip)
    return {chip: int(sum(values)) for chip, values in groups.items() if len(values) == per_chip}


def _ratio_by_chip(port: PortMetrics, metric: Metric, per_chip: int) -> dict[int, float]:
    """A percentage as a ratio, by chip.

    Given per device (always so on 7x, and where a chip is one device), it is the mean over the chip's
    devices. Given per chip, its ids are not to be trusted (0, 1, 2.. or 0, 2, 4..): the order counts.
    """
    percent = port.get(metric, {})
    devices = devices_of(port)
    chips = sorted({device // per_chip for device in devices})
    if percent.keys() == devices or (per_chip == 1 and (not devices or percent.keys() & devices)):
        return {chip: fmean(values) / 100 for chip, values in _group(percent, per_chip).items()}
    if len(percent) == len(chips):
        return {chip: percent[id_] / 100 for chip, id_ in zip(chips, sorted(percent), strict=True)}
    return {}


def _group(by_device: Gauges, per_chip: int) -> dict[int, list[float]]:
    groups: dict[int, list[float]] = {}
    for device, value in sorted(by_device.items()):
        groups.setdefault(device // per_chip, []).append(value)
    return groups
