"""The chips of one host, the host itself, and how its sources stand."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from crystools_grafana.dashboard import dashboard as made
from crystools_grafana.dashboard import machine_variables
from crystools_grafana.panels import Panel, Query, lines, number, quantile, up_or_down

CHIP = "{{chip}} {{simulated}}"
SOURCE = "{{source}} {{simulated}}"


def dashboard() -> models.Dashboard:
    """The dashboard of the host that is chosen."""
    return made(
        "crystools-tpu-chips",
        "Crystools TPU / Chips of a host",
        "Every chip of one host: memory, duty cycle, TensorCore, temperature; its CPU, memory and disks; and "
        "whether the figures can be trusted.",
        {
            "Host": host(),
            "Chips": chips(),
            "Timed by the runtime": timings(),
            "Collection": collection(),
        },
        variables=machine_variables(one_host=True),
        last="1h",
    )


def by_chip(metric: str) -> Query:
    """A gauge of the chips. Two exporters on one host show the same chips: neither is added to the other."""
    return Query(f"max by (chip, simulated) ({metric}{{hosts}})", CHIP)


def host() -> list[Panel]:
    """The host: what it is, and how busy."""
    return [
        number(
            "Chips",
            "Chips that report now, by kind. A chip that is gone has no series.",
            "short",
            Query(
                "count by (kind, simulated) "
                "(max by (chip, kind, simulated) (crystools_tpu_chip_info{hosts}))",
                "{{kind}} {{simulated}}",
            ),
        ),
        number(
            "Version",
            "Of the package that reports.",
            "short",
            Query(
                "max by (version, simulated) (crystools_tpu_build_info{hosts})", "{{version}} {{simulated}}"
            ),
            names_only=True,
        ),
        lines(
            "CPU",
            "Share of the time of the CPUs that may be used that was not idle.",
            "percentunit",
            Query(
                "max by (simulated) (crystools_tpu_host_cpu_utilization_ratio{hosts})", "CPU {{simulated}}"
            ),
            width=5,
            maximum=1,
        ),
        lines(
            "Memory",
            "Of the container where it has a limit, or else of the machine.",
            "bytes",
            Query("max by (simulated) (crystools_tpu_host_memory_used_bytes{hosts})", "used {{simulated}}"),
            Query("max by (simulated) (crystools_tpu_host_memory_total_bytes{hosts})", "total {{simulated}}"),
            Query("max by (simulated) (crystools_tpu_machine_memory_bytes{hosts})", "machine {{simulated}}"),
            width=5,
        ),
        lines(
            "Disks",
            "Share in use of each mounted file system. A TPU VM's own disk is small.",
            "percentunit",
            Query(
                "max by (mount, simulated) (crystools_tpu_host_disk_used_bytes{hosts}) / "
                "max by (mount, simulated) (crystools_tpu_host_disk_total_bytes{hosts})",
                "{{mount}} {{simulated}}",
            ),
            width=6,
            maximum=1,
        ),
    ]


def chips() -> list[Panel]:
    """The chips: what the hardware says of each."""
    return [
        lines(
            "HBM in use",
            "Device memory in use, beside all that the smallest chip has.",
            "bytes",
            by_chip("crystools_tpu_chip_hbm_used_bytes"),
            Query(
                "min by (simulated) (crystools_tpu_chip_hbm_total_bytes{hosts})",
                "total {{simulated}}",
            ),
        ),
        lines(
            "HBM in use, share",
            "Of the memory of each chip.",
            "percentunit",
            Query("chip:crystools_tpu_chip_hbm_used:ratio{hosts}", CHIP),
            maximum=1,
        ),
        lines(
            "Duty cycle",
            "Share of the time in which the chip was busy with anything. Not MFU.",
            "percentunit",
            by_chip("crystools_tpu_chip_duty_cycle_ratio"),
            maximum=1,
        ),
        lines(
            "TensorCore utilisation",
            "Share of the TensorCore's capacity in use, as the runtime reports it. Not MFU.",
            "percentunit",
            by_chip("crystools_tpu_chip_tensorcore_utilization_ratio"),
            maximum=1,
        ),
        lines(
            "HBM bandwidth",
            "Share of the memory bandwidth in use, as the runtime reports it.",
            "percentunit",
            by_chip("crystools_tpu_chip_hbm_bandwidth_utilization_ratio"),
            maximum=1,
        ),
        lines(
            "Temperature",
            "Of the chips that say it: GPUs do, TPUs do not.",
            "celsius",
            by_chip("crystools_tpu_chip_temperature_celsius"),
            minimum=None,
        ),
    ]


def timings() -> list[Panel]:
    """What the TPU runtime measures of itself."""
    program = ("crystools_tpu_chip_hlo_execution_seconds", "{hosts}", "chip, core_type, simulated")
    return [
        *(
            lines(
                f"Programs on the chip, {name}",
                "Duration of the compiled programs that ran on each chip's cores, as the runtime counts; "
                "interpolated within its buckets.",
                "s",
                Query(quantile(share, *program), "{{chip}} {{core_type}} {{simulated}}"),
            )
            for name, share in (("median", 0.5), ("p95", 0.95))
        ),
        lines(
            "Transfers, p95",
            "Operations between slices and between host and device, as Megascale times them; interpolated "
            "within its buckets.",
            "s",
            Query(
                quantile(
                    0.95,
                    "crystools_tpu_megascale_latency_seconds",
                    "{hosts}",
                    "operation, buffer_size, simulated",
                ),
                "{{operation}} {{buffer_size}} {{simulated}}",
            ),
        ),
    ]


def collection() -> list[Panel]:
    """Whether the figures above are there and new."""
    return [
        up_or_down(
            number(
                "Sources",
                "Whether each source answered its last read; it is idle where no program uses its chips. A "
                "source that this machine lacks has no sample.",
                "short",
                Query(
                    "min by (source, simulated) (crystools_tpu_source_up{hosts} + "
                    "crystools_tpu_source_idle{hosts} or crystools_tpu_source_up{hosts})",
                    SOURCE,
                ),
                width=8,
            )
        ),
        lines(
            "Age of the last good read",
            "At rest about the scrape interval. It grows while a source does not answer.",
            "s",
            Query(
                "time() - max by (source, simulated) "
                "(crystools_tpu_source_last_success_timestamp_seconds{hosts})",
                SOURCE,
            ),
        ),
        lines(
            "Failed reads",
            "In each interval.",
            "short",
            Query(
                "sum by (source, simulated) "
                "(increase(crystools_tpu_source_errors_total{hosts}[$__rate_interval]))",
                SOURCE,
            ),
        ),
    ]
