"""What a TPU runtime's distributions mean: histograms in seconds, by chip or operation. Imports no gRPC.

tpu-info makes quantiles of them, which cannot be added up over chips and hosts, and of none at all it makes
1 microsecond. Here the runtime's own buckets are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from crystools_tpu.sources.base import Durations, Histograms, HloExecutions, MegascaleLatencies
from crystools_tpu.sources.tpu_payload import PortMetrics, device_id, devices_of, devices_per_chip_of

if TYPE_CHECKING:
    from tpu_info.proto import tpu_metric_service_pb2 as proto

HLO_EXECUTION: Final = "hlo.execution.timing.distribution.microseconds"

MEGASCALE_OPERATIONS: Final = {
    f"megascale.{name}.microsecond.cumulative.distribution": name.removesuffix("_latencies")
    for name in (
        "dcn_transfer_latencies",
        "dcn_inbound_transfer_latencies",
        "host_to_device_transfer_latencies",
        "device_to_host_transfer_latencies",
        "collective_end_to_end_latencies",
        "mxla_compute_latencies",
        "grpc_tcp_min_rtt",
    )
}
"""The name of the operation by that of libtpu's metric."""

DISTRIBUTIONS: Final = (HLO_EXECUTION, *MEGASCALE_OPERATIONS)
"""libtpu's names of the metrics that are read."""

MAX_BUCKETS: Final = 1000
"""A distribution with more is no such thing."""

PortDistributions: TypeAlias = dict[str, "list[proto.Metric]"]
"""What one runtime says, by libtpu's name; a metric that it lacks is empty or has no key."""


def durations(distribution: proto.Distribution) -> Durations | None:
    """A distribution of microseconds with exponential buckets, whose last counts may be left out.

    The first bucket is below `scale`, the bound of each of the others is `growth_factor` times the last, and
    what exceeds them comes at the end. None for any other form: it has no bounds to show.
    """
    options = distribution.bucket_options
    exponential = options.exponential_buckets
    counts = list(distribution.bucket_counts)
    finite = exponential.num_finite_buckets or len(counts) - 2
    if options.WhichOneof("options") != "exponential_buckets" or not 0 < finite <= MAX_BUCKETS:
        return None
    if not (exponential.scale > 0 and exponential.growth_factor > 1 and math.isfinite(distribution.mean)):
        return None
    if len(counts) > finite + 2 or min(counts, default=0) < 0:
        return None
    counts += [0] * (finite + 2 - len(counts))
    try:
        bounds = [exponential.scale * exponential.growth_factor**power for power in range(finite + 1)]
    except OverflowError:
        return None
    return Durations(
        tuple(_seconds(bound) for bound in bounds), tuple(counts), distribution.mean * sum(counts) / 1e6
    )


def histograms(
    ports: Mapping[str, tuple[PortMetrics, PortDistributions]],
    devices_per_chip: int | None,
    shifts: Mapping[str, int],
) -> Histograms:
    """All ports' distributions, added up where they are of the same chip or operation.

    Chips are numbered as `tpu_payload.chip_readings` does it, which filled `shifts`.
    """
    executions: dict[tuple[str, str], list[Durations]] = {}
    latencies: dict[tuple[str, str], list[Durations]] = {}
    for address, (gauges, distributions) in ports.items():
        entries = distributions.get(HLO_EXECUTION, [])
        per_chip = devices_per_chip or devices_per_chip_of(gauges)
        chips = _chips(entries, devices_of(gauges), per_chip, shifts.get(address, 0))
        for entry in entries:
            chip = chips.get(_ordinal(entry))
            if chip is not None and (counted := durations(entry.distribution)) is not None:
                executions.setdefault((chip, _text(entry, "core_type").lower()), []).append(counted)
        for name, operation in MEGASCALE_OPERATIONS.items():
            for entry in distributions.get(name, []):
                if (counted := durations(entry.distribution)) is not None:
                    latencies.setdefault((operation, _text(entry, "buffer-size")), []).append(counted)
    return Histograms(
        tuple(HloExecutions(*key, total) for key, total in _totals(executions)),
        tuple(MegascaleLatencies(*key, total) for key, total in _totals(latencies)),
    )


def _chips(
    entries: Iterable[proto.Metric], devices: set[int], devices_per_chip: int, shift: int
) -> dict[int | None, str]:
    """The chip of each ordinal. Ordinals that are no device ids count the devices from 0."""
    ordinals = {ordinal for entry in entries if (ordinal := _ordinal(entry)) is not None}
    if not devices or ordinals <= devices:
        ids = {ordinal: ordinal for ordinal in ordinals}
    else:
        ids = dict(enumerate(sorted(devices)))
    return {ordinal: f"tpu{id_ // devices_per_chip + shift}" for ordinal, id_ in ids.items()}


def _ordinal(entry: proto.Metric) -> int | None:
    return next((device_id(value) for key, value in _attributes(entry) if key == "device_ordinal"), None)


def _text(entry: proto.Metric, name: str) -> str:
    return next((value.string_attr for key, value in _attributes(entry) if key == name), "")


def _attributes(entry: proto.Metric) -> list[tuple[str, proto.AttrValue]]:
    return [(pair.key, pair.value) for pair in entry.attribute.value.kvlist_attr.attributes]


def _totals(groups: Mapping[tuple[str, str], list[Durations]]) -> list[tuple[tuple[str, str], Durations]]:
    """The sum of each group. A group whose buckets differ has none and is left out."""
    return [
        (
            key,
            Durations(
                group[0].bounds_seconds,
                tuple(map(sum, zip(*(one.counts for one in group), strict=True))),
                sum(one.sum_seconds for one in group),
            ),
        )
        for key, group in groups.items()
        if len({one.bounds_seconds for one in group}) == 1
    ]


def _seconds(microseconds: float) -> float:
    """Rounded to what a bound's text should show: 0.0014, not 0.0013999999999999998."""
    return float(f"{microseconds / 1e6:.6g}")
