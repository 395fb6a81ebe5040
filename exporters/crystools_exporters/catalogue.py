"""Every metric there is: name, type, help, unit, labels. Exporters and dashboards read this table.

Labels are closed sets: never a prompt, a seed or a run id.

- `chip`      the monitor's rows (`tpu0`, `gpu0`, `cpu0`)
- `device`    a jax device (`tpu:0`): on v2, v3 and 7x there are two to a chip, each with its own peak
- `core_type` the runtime's word for what runs programs on a chip (`tensor_core`)
- `operation` what Megascale times: `dcn_transfer dcn_inbound_transfer host_to_device_transfer
              device_to_host_transfer collective_end_to_end mxla_compute grpc_tcp_min_rtt`
- `buffer_size` the runtime's classes of what is transferred (`8MB+`)
- `mount`     a disk's mount point: as many as the machine has disks, chosen by nobody from outside
- `source`    the names of the sources (`host tpu libtpu_sdk jax_memory nvml`)
- `pipeline`  the names that pipelines report under (`wan2.1-t2v`)
- `stage`     `download load text_encode image_encode denoise vae_encode vae_decode save`
- `status`    `succeeded failed cancelled`
- `reason`    why a model's component left the memory: `evicted freed out_of_memory`
- `kind`      what a source calls the chip (`TPU v6e`)
- `cache`     what the compilation cache did: `hit miss off`
- `version`   this package's version, on `build_info` alone

`SIMULATED_LABEL` names the simulated machine (`v6e-8`) on every sample, and on none where the machine is
real. To Prometheus an absent label is an empty one: a query with `{simulated=""}` shows real machines only,
and `sum by (simulated)` never adds the two up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SIMULATED_LABEL: Final = "simulated"

# From a step of a small image to the load of a large model, about 2.5 apart.
_DURATION_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    `buckets` are a histogram's upper bounds, in the metric's unit, without +Inf; empty where the TPU runtime
    that counts chooses them.
    """

    name: str
    type: Literal["gauge", "counter", "histogram"]
    unit: Literal["bytes", "celsius", "flop", "ratio", "seconds"] | None
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()

    @property
    def suffix_unit(self) -> str:
        """The unit where the name ends with it: OpenMetrics knows no other."""
        named = self.unit is not None and self.name.removesuffix("_total").endswith(f"_{self.unit}")
        return self.unit if self.unit is not None and named else ""


CATALOGUE: Final = (
    MetricSpec(
        "crystools_tpu_build_info", "gauge", None, ("version",),
        "Always 1; the version is in the label.",
    ),
    MetricSpec(
        "crystools_tpu_chip_info", "gauge", None, ("chip", "kind"),
        "Always 1; what its source calls the chip (TPU v6e) is in the label.",
    ),
    MetricSpec(
        "crystools_tpu_chip_hbm_used_bytes", "gauge", "bytes", ("chip",),
        "Device memory in use on the chip.",
    ),
    MetricSpec(
        "crystools_tpu_chip_hbm_total_bytes", "gauge", "bytes", ("chip",),
        "Device memory of the chip.",
    ),
    MetricSpec(
        "crystools_tpu_chip_duty_cycle_ratio", "gauge", "ratio", ("chip",),
        "Share of the time in which the chip was busy with anything, 0 to 1. Not MFU.",
    ),
    MetricSpec(
        "crystools_tpu_chip_tensorcore_utilization_ratio", "gauge", "ratio", ("chip",),
        "Share of the TensorCore's capacity in use as the runtime reports it, 0 to 1. Not MFU.",
    ),
    MetricSpec(
        "crystools_tpu_chip_hbm_bandwidth_utilization_ratio", "gauge", "ratio", ("chip",),
        "Share of the memory bandwidth in use as the runtime reports it, 0 to 1.",
    ),
    MetricSpec(
        "crystools_tpu_chip_temperature_celsius", "gauge", "celsius", ("chip",),
        "Temperature of the chip.",
    ),
    MetricSpec(
        "crystools_tpu_chip_hlo_execution_seconds", "histogram", "seconds", ("chip", "core_type"),
        "Duration of the programs that ran on the chip's cores, in the runtime's own buckets.",
    ),
    MetricSpec(
        "crystools_tpu_megascale_latency_seconds", "histogram", "seconds", ("operation", "buffer_size"),
        "Duration of operations between slices and between host and device, in the runtime's own buckets.",
    ),
    MetricSpec(
        "crystools_tpu_host_cpu_utilization_ratio", "gauge", "ratio", (),
        "Share of the time of the CPUs that may be used that was not idle since the last sample, 0 to 1.",
    ),
    MetricSpec(
        "crystools_tpu_host_cpus", "gauge", None, (),
        "CPUs that may be used: the limit of the container, or else all of the machine.",
    ),
    MetricSpec(
        "crystools_tpu_host_memory_used_bytes", "gauge", "bytes", (),
        "Memory in use, of the container where it has a limit, or else of the machine.",
    ),
    MetricSpec(
        "crystools_tpu_host_memory_total_bytes", "gauge", "bytes", (),
        "Memory that may be used: the limit of the container, or else all of the machine.",
    ),
    MetricSpec(
        "crystools_tpu_machine_cpus", "gauge", None, (),
        "CPUs of the machine, whatever the container may use of them.",
    ),
    MetricSpec(
        "crystools_tpu_machine_memory_bytes", "gauge", "bytes", (),
        "Memory of the machine, whatever the container may use of it.",
    ),
    MetricSpec(
        "crystools_tpu_host_disk_used_bytes", "gauge", "bytes", ("mount",),
        "Space in use on a mounted file system.",
    ),
    MetricSpec(
        "crystools_tpu_host_disk_total_bytes", "gauge", "bytes", ("mount",),
        "Size of a mounted file system.",
    ),
    MetricSpec(
        "crystools_tpu_source_up", "gauge", None, ("source",),
        "Whether the source answered its last read. No sample before the first, or where it does not exist.",
    ),
    MetricSpec(
        "crystools_tpu_source_last_success_timestamp_seconds", "gauge", "seconds", ("source",),
        "Unix time of the source's last good read.",
    ),
    MetricSpec(
        "crystools_tpu_source_errors_total", "counter", None, ("source",),
        "Reads of the source that failed.",
    ),
    MetricSpec(
        "crystools_tpu_runs_total", "counter", None, ("pipeline", "status"),
        "Runs that ended.",
    ),
    MetricSpec(
        "crystools_tpu_runs_in_progress", "gauge", None, ("pipeline",),
        "Runs that have begun and not ended.",
    ),
    MetricSpec(
        "crystools_tpu_run_duration_seconds", "histogram", "seconds", ("pipeline", "status"),
        "Duration of runs, from the first stage's load to the last one's save.",
        _DURATION_BUCKETS,
    ),
    MetricSpec(
        "crystools_tpu_run_chip_seconds_total", "counter", "seconds", ("pipeline", "status"),
        "Duration of the runs that ended times the chips they ran on, which is what they cost.",
    ),
    MetricSpec(
        "crystools_tpu_stage_duration_seconds", "histogram", "seconds", ("pipeline", "stage", "status"),
        "Duration of stages, compilation included.",
        _DURATION_BUCKETS,
    ),
    MetricSpec(
        "crystools_tpu_step_duration_seconds", "histogram", "seconds", ("pipeline", "stage"),
        "Duration of steps on the device, without the steps in which a compile fell.",
        _DURATION_BUCKETS,
    ),
    MetricSpec(
        "crystools_tpu_nonfinite_steps_total", "counter", None, ("pipeline", "stage"),
        "Steps whose output held a NaN or an infinity, by the device's own check.",
    ),
    MetricSpec(
        "crystools_tpu_compile_duration_seconds", "histogram", "seconds", ("pipeline", "stage", "cache"),
        "Duration of backend compiles, or of their retrieval from the cache (hit).",
        _DURATION_BUCKETS,
    ),
    MetricSpec(
        "crystools_tpu_compiles_total", "counter", None, ("pipeline", "stage", "cache"),
        "Backend compiles, retrievals from the cache (hit) included.",
    ),
    MetricSpec(
        "crystools_tpu_recompiles_total", "counter", None, ("pipeline", "stage"),
        "Steps after the first of their stage in which something was compiled.",
    ),
    MetricSpec(
        "crystools_tpu_stage_mfu_ratio", "gauge", "ratio", ("pipeline", "stage"),
        "Model FLOPs over time, chips and peak FLOP/s: of the latest step, then of the stage once it ended.",
    ),
    MetricSpec(
        "crystools_tpu_stage_mbu_ratio", "gauge", "ratio", ("pipeline", "stage"),
        "Bytes that had to move over time, chips and peak bandwidth, of the latest stage that ended.",
    ),
    MetricSpec(
        "crystools_tpu_model_flops_total", "counter", "flop", ("pipeline", "stage"),
        "Model FLOPs done, over all chips, counted as stages end.",
    ),
    MetricSpec(
        "crystools_tpu_stage_hbm_peak_bytes", "gauge", "bytes", ("pipeline", "stage", "device"),
        "Peak memory of a jax device in the latest stage that ended.",
    ),
    MetricSpec(
        "crystools_tpu_components_freed_total", "counter", None, ("reason",),
        "Components of models that left the devices' memory.",
    ),
)  # fmt: skip
"""In the order of the exposition."""
