"""The catalogue's metrics of the machine, as one snapshot has them, for any exporter to read.

What the machine calls its parts (a GPU, a mount point) may be any bytes: it is made safe here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from crystools_exporters.run_metrics import Histogram, Labels
from crystools_tpu.telemetry.text import safe_text

if TYPE_CHECKING:
    from crystools_tpu.monitor import Snapshot
    from crystools_tpu.sources.base import Durations

MAX_AGE_SECONDS: Final = 0.5
"""A scrape or export takes a snapshot of its own unless there is one so young."""

Values: TypeAlias = Iterable[tuple[Labels, float | Histogram | None]]


class Sampler(Protocol):
    """What the exporter needs of a monitor."""

    def sample(self, max_age_seconds: float) -> Snapshot:
        """A snapshot no older than that."""


def _chips(field: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [((chip.chip,), getattr(chip, field)) for chip in snapshot.chips]


def _chip_kinds(snapshot: Snapshot) -> Values:
    return [((chip.chip, safe_text(chip.kind)), 1) for chip in snapshot.chips if chip.kind is not None]


def _host(field: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [((), getattr(snapshot.host, field))] if snapshot.host is not None else []


def _hlo_executions(snapshot: Snapshot) -> Values:
    known = snapshot.histograms.hlo_executions if snapshot.histograms else ()
    return [((one.chip, safe_text(one.core_type)), _histogram(one.durations)) for one in known]


def _megascale_latencies(snapshot: Snapshot) -> Values:
    known = snapshot.histograms.megascale_latencies if snapshot.histograms else ()
    return [
        ((safe_text(one.operation), safe_text(one.buffer_size)), _histogram(one.durations)) for one in known
    ]


def _histogram(durations: Durations) -> Histogram:
    return Histogram(durations.bounds_seconds, durations.counts, durations.sum_seconds)


def _disks(field: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [
        ((safe_text(disk.mount),), getattr(disk, field))
        for disk in (snapshot.host.disks if snapshot.host else ())
    ]


def _sources(field: str) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [((health.source,), getattr(health, field)) for health in snapshot.sources]


SNAPSHOT_READERS: Final[Mapping[str, Callable[[Snapshot], Values]]] = {
    "crystools_tpu_chip_info": _chip_kinds,
    "crystools_tpu_chip_hbm_used_bytes": _chips("hbm_used_bytes"),
    "crystools_tpu_chip_hbm_total_bytes": _chips("hbm_total_bytes"),
    "crystools_tpu_chip_duty_cycle_ratio": _chips("duty_cycle_ratio"),
    "crystools_tpu_chip_tensorcore_utilization_ratio": _chips("tensorcore_utilization_ratio"),
    "crystools_tpu_chip_hbm_bandwidth_utilization_ratio": _chips("hbm_bandwidth_utilization_ratio"),
    "crystools_tpu_chip_temperature_celsius": _chips("temperature_celsius"),
    "crystools_tpu_chip_hlo_execution_seconds": _hlo_executions,
    "crystools_tpu_megascale_latency_seconds": _megascale_latencies,
    "crystools_tpu_host_cpu_utilization_ratio": _host("cpu_utilization_ratio"),
    "crystools_tpu_host_cpus": _host("cpu_count"),
    "crystools_tpu_host_memory_used_bytes": _host("memory_used_bytes"),
    "crystools_tpu_host_memory_total_bytes": _host("memory_total_bytes"),
    "crystools_tpu_machine_cpus": _host("machine_cpu_count"),
    "crystools_tpu_machine_memory_bytes": _host("machine_memory_bytes"),
    "crystools_tpu_host_disk_used_bytes": _disks("used_bytes"),
    "crystools_tpu_host_disk_total_bytes": _disks("total_bytes"),
    "crystools_tpu_source_up": _sources("up"),
    "crystools_tpu_source_last_success_timestamp_seconds": _sources("last_success_unix_seconds"),
    "crystools_tpu_source_errors_total": _sources("errors_total"),
}
