"""Every metric there is: its name, what it is read from, its help. Exporters and dashboards read this table.

Labels are closed sets: never a prompt, a seed or a run id.

- `chip`      the monitor's rows (`tpu0`, `gpu0`, `cpu0`)
- `device`    a jax device (`tpu:0`): on v2, v3 and 7x there are two to a chip, each with its own peak
- `core_type` the runtime's word for what runs programs on a chip (`tensor_core`)
- `operation` what Megascale times: `dcn_transfer dcn_inbound_transfer host_to_device_transfer
              device_to_host_transfer collective_end_to_end mxla_compute grpc_tcp_min_rtt`
- `buffer_size` the runtime's classes of what is transferred (`8MB+`)
- `mount`     a disk's mount point: as many as the machine has disks, chosen by nobody from outside
- `source`    the names of the sources (`host tpu libtpu_sdk jax_memory nvml`)
- `pipeline`  the names that pipelines report under (`wan2.1-t2v`); of a workflow's run `comfyui`
- `stage`     `download load text_encode image_encode denoise vae_encode vae_decode save`; of a compile in
              a node `node`
- `node_class` the classes of ComfyUI's own nodes and of ours (`node_classes.py`); all others are `other`
- `status`    `succeeded failed cancelled`
- `reason`    why a model's component left the memory: `evicted freed out_of_memory`
- `kind`      what a source calls the chip (`TPU v6e`); of steps `full`, `cached` where a step cache skipped
              them, `other` for a pipeline's own words, and of their number `compiled` where a compile fell
              in them
- `cache`     what the compilation cache did: `hit miss off`
- `version`   this package's version, on `build_info` alone

`SIMULATED_LABEL` names the simulated machine (`v6e-8`) on every sample, and on none where the machine is
real. To Prometheus an absent label is an empty one: a query with `{simulated=""}` shows real machines only,
and `sum by (simulated)` never adds the two up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from crystools_exporters.readers import (
    ATTACHED,
    CHIP_KINDS,
    FROM_ZERO,
    HBM_PEAKS,
    IDLE_SOURCES,
    STEP_SECONDS,
    STEPS,
    Built,
    EventReader,
    InProgress,
    NodeFinished,
    NodeStepFinished,
    SnapshotReader,
    chip,
    disk,
    host,
    on,
    runtime,
    source,
)
from crystools_tpu.telemetry import (
    CompileFinished,
    HbmUsage,
    HostMemory,
    ModelFreed,
    Ratio,
    RunFinished,
    StageFinished,
    StepFinished,
)
from crystools_tpu.telemetry.events import CACHED

SIMULATED_LABEL: Final = "simulated"

_UNITS: Final = {
    "bytes": "bytes", "celsius": "celsius", "flops": "flop", "ratio": "ratio", "seconds": "seconds",
}  # fmt: skip
"""The unit by the last word of a metric's name."""

# From a step of a small image to the load of a large model, about 2.5 apart.
_DURATION_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. What its name ends with says its unit, and `_total` that it is a counter.

    `buckets` are a histogram's upper bounds, in the metric's unit, without +Inf; empty where the TPU runtime
    that counts chooses them, and None where it is none.
    """

    name: str
    reader: SnapshotReader | EventReader
    help: str
    buckets: tuple[float, ...] | None = None

    @property
    def type(self) -> Literal["gauge", "counter", "histogram"]:
        """The kind of metric, in Prometheus' words."""
        if self.buckets is not None:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels."""
        return self.reader.labels

    @property
    def unit(self) -> str | None:
        """The unit, which its name ends with; None for a count or an info."""
        return _UNITS.get(self.name.removesuffix("_total").rpartition("_")[2])

    @property
    def suffix_unit(self) -> str:
        """The unit where it is the last word of the name: OpenMetrics knows no other."""
        return self.unit if self.unit is not None and self.unit != "flop" else ""


_RUN: Final = ("pipeline", "status")
_STAGE: Final = ("pipeline", "stage")


def _chip_seconds(event: RunFinished) -> float | None:
    report = event.report
    if report.total_seconds is None or report.device is None:
        return None
    return report.total_seconds * report.device.chips


def _in_full(event: StepFinished) -> bool:
    """Not of what a step cache left of a step, which says nothing of the others."""
    return not event.record.compiled and event.record.kind != CACHED


def _is_nonfinite(event: StepFinished) -> int | None:
    return None if event.record.finite is None else int(not event.record.finite)


def _peak_bytes(usages: Iterable[HbmUsage | HostMemory | None]) -> int | None:
    return max((usage.peak_bytes for usage in usages if usage is not None), default=None)


def _ratio(known: Ratio | None) -> float | None:
    """An unknown ratio has no sample, even where an earlier stage had one."""
    return None if known is None else known.ratio


CATALOGUE: Final = (
    MetricSpec("crystools_tpu_build_info", on(Built, "version", value=lambda _: 1),
        "Always 1; the version is in the label."),
    MetricSpec("crystools_tpu_chip_info", CHIP_KINDS,
        "Always 1; what its source calls the chip (TPU v6e) is in the label."),
    MetricSpec("crystools_tpu_chip_hbm_used_bytes", chip("hbm_used_bytes"),
        "Device memory in use on the chip."),
    MetricSpec("crystools_tpu_chip_hbm_total_bytes", chip("hbm_total_bytes"),
        "Device memory of the chip."),
    MetricSpec("crystools_tpu_chip_duty_cycle_ratio", chip("duty_cycle_ratio"),
        "Share of the time in which the chip was busy with anything, 0 to 1. Not MFU."),
    MetricSpec("crystools_tpu_chip_tensorcore_utilization_ratio", chip("tensorcore_utilization_ratio"),
        "Share of the TensorCore's capacity in use as the runtime reports it, 0 to 1. Not MFU."),
    MetricSpec("crystools_tpu_chip_hbm_bandwidth_utilization_ratio", chip("hbm_bandwidth_utilization_ratio"),
        "Share of the memory bandwidth in use as the runtime reports it, 0 to 1."),
    MetricSpec("crystools_tpu_chip_temperature_celsius", chip("temperature_celsius"),
        "Temperature of the chip."),
    MetricSpec("crystools_tpu_chips_attached", ATTACHED,
        "TPU chips that the machine has by sysfs, whether or not a program uses them."),
    MetricSpec("crystools_tpu_chip_hlo_execution_seconds", runtime("hlo_executions", "chip", "core_type"),
        "Duration of the programs that ran on the chip's cores, in the runtime's own buckets.", ()),
    MetricSpec("crystools_tpu_megascale_latency_seconds",
        runtime("megascale_latencies", "operation", "buffer_size"),
        "Duration of operations between slices and between host and device, in the runtime's own buckets.",
        ()),
    MetricSpec("crystools_tpu_host_cpu_utilization_ratio", host("cpu_utilization_ratio"),
        "Share of the time of the CPUs that may be used that was not idle since the last sample, 0 to 1."),
    MetricSpec("crystools_tpu_host_cpus", host("cpu_count"),
        "CPUs that may be used: the limit of the container, or else all of the machine."),
    MetricSpec("crystools_tpu_host_memory_used_bytes", host("memory_used_bytes"),
        "Memory in use, of the container where it has a limit, or else of the machine."),
    MetricSpec("crystools_tpu_host_memory_total_bytes", host("memory_total_bytes"),
        "Memory that may be used: the limit of the container, or else all of the machine."),
    MetricSpec("crystools_tpu_machine_cpus", host("machine_cpu_count"),
        "CPUs of the machine, whatever the container may use of them."),
    MetricSpec("crystools_tpu_machine_memory_bytes", host("machine_memory_bytes"),
        "Memory of the machine, whatever the container may use of it."),
    MetricSpec("crystools_tpu_host_disk_used_bytes", disk("used_bytes"),
        "Space in use on a mounted file system."),
    MetricSpec("crystools_tpu_host_disk_total_bytes", disk("total_bytes"),
        "Size of a mounted file system."),
    MetricSpec("crystools_tpu_source_up", source("up"),
        "Whether the source answered its last read, which a source whose chips are idle has done. No sample "
        "before the first, or where it does not exist."),
    MetricSpec("crystools_tpu_source_idle", IDLE_SOURCES,
        "Whether the source is up and has no figures, because no program is seen that uses its chips."),
    MetricSpec("crystools_tpu_source_last_success_timestamp_seconds", source("last_success_unix_seconds"),
        "Unix time of the source's last good read."),
    MetricSpec("crystools_tpu_source_errors_total", source("errors_total"),
        "Reads of the source that failed."),
    MetricSpec("crystools_tpu_runs_total", FROM_ZERO | on(RunFinished, *_RUN, value=lambda _: 1),
        "Runs that ended."),
    MetricSpec("crystools_tpu_runs_in_progress", on(InProgress, "pipeline", value=lambda event: event.runs),
        "Runs that have begun and not ended."),
    MetricSpec("crystools_tpu_run_duration_seconds",
        on(RunFinished, *_RUN, value=lambda event: event.report.total_seconds),
        "Duration of runs, from the first stage's load to the last one's save; of workflows, of all nodes.",
        _DURATION_BUCKETS),
    MetricSpec("crystools_tpu_run_chip_seconds_total",
        FROM_ZERO | on(RunFinished, *_RUN, value=_chip_seconds),
        "Duration of the runs that ended times the chips they ran on, which is what they cost."),
    MetricSpec("crystools_tpu_stage_duration_seconds",
        on(StageFinished, *_STAGE, "status", value=lambda event: event.report.seconds),
        "Duration of stages, compilation included.", _DURATION_BUCKETS),
    MetricSpec("crystools_tpu_steps_total", STEPS,
        "Steps that the device finished, by what they did: all of it (full), what a step cache left of it "
        "(cached), or a compile besides (compiled)."),
    MetricSpec("crystools_tpu_step_duration_seconds",
        STEP_SECONDS,
        "Duration of steps on the device, without the steps in which a compile fell; those that a step cache "
        "skipped (cached) take other seconds than full ones.", _DURATION_BUCKETS),
    MetricSpec("crystools_tpu_nonfinite_steps_total", on(StepFinished, *_STAGE, value=_is_nonfinite),
        "Steps whose output held a NaN or an infinity, by the device's own check."),
    MetricSpec("crystools_tpu_compile_duration_seconds",
        on(CompileFinished, *_STAGE, "cache", value=lambda event: event.record.seconds),
        "Duration of backend compiles, or of their retrieval from the cache (hit).", _DURATION_BUCKETS),
    MetricSpec("crystools_tpu_compiles_total", on(CompileFinished, *_STAGE, "cache", value=lambda _: 1),
        "Backend compiles, retrievals from the cache (hit) included."),
    MetricSpec("crystools_tpu_recompiles_total",
        on(CompileFinished, *_STAGE, value=lambda event: int(event.recompile)),
        "Steps after the first of their stage in which something was compiled."),
    MetricSpec("crystools_tpu_stage_mfu_ratio",
        on(StepFinished, *_STAGE, value=lambda event: _ratio(event.mfu), where=_in_full)
        | on(StageFinished, *_STAGE, value=lambda event: _ratio(event.report.mfu)),
        "Model FLOPs over time, chips and peak FLOP/s: of the latest step that no step cache skipped, then "
        "of the stage once it ended."),
    MetricSpec("crystools_tpu_stage_mbu_ratio",
        on(StageFinished, *_STAGE, value=lambda event: _ratio(event.report.mbu)),
        "Bytes that had to move over time, chips and peak bandwidth, of the latest stage that ended."),
    MetricSpec("crystools_tpu_model_flops_total",
        on(StageFinished, *_STAGE, value=lambda event: event.report.flops),
        "Model FLOPs done, over all chips, counted as stages end."),
    MetricSpec("crystools_tpu_stage_hbm_peak_bytes", HBM_PEAKS,
        "Peak memory of a jax device in the latest stage that ended."),
    MetricSpec("crystools_tpu_node_duration_seconds",
        on(NodeFinished, "node_class", "status", value=lambda event: event.report.seconds),
        "Duration of the nodes of workflows, with those that they expand into.", _DURATION_BUCKETS),
    MetricSpec("crystools_tpu_node_step_duration_seconds",
        on(NodeStepFinished, "node_class", value=lambda event: event.seconds),
        "Time between two reports of a node's progress, without the first.",
        _DURATION_BUCKETS),
    MetricSpec("crystools_tpu_node_hbm_peak_bytes",
        on(NodeFinished, "node_class", value=lambda event: _peak_bytes(event.report.hbm)),
        "Peak memory of the fullest device in the latest node of the class that ended."),
    MetricSpec("crystools_tpu_node_host_memory_peak_bytes",
        on(NodeFinished, "node_class", value=lambda event: _peak_bytes([event.report.host_memory])),
        "Peak of the process's own memory in the latest node of the class that ended."),
    MetricSpec("crystools_tpu_components_freed_total", on(ModelFreed, "reason", value=lambda _: 1),
        "Components of models that left the devices' memory."),
)  # fmt: skip
"""All metrics, in the order of the exposition."""
