"""What the runs cost, what was paid for nothing, and what room is left."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from crystools_grafana.dashboard import dashboard as made
from crystools_grafana.dashboard import machine_variables, run_variables, text_box
from crystools_grafana.panels import Column, Panel, Query, lines, number, rows

CHIP_SECONDS = "increase(crystools_tpu_run_chip_seconds_total{runs}[$__range])"
WASTED = 'increase(crystools_tpu_run_chip_seconds_total{runs,status!="succeeded"}[$__range])'
HOST = "{{slice}} {{host}} {{simulated}}"
BY = "slice, host, simulated"


def dashboard() -> models.Dashboard:
    """The dashboard of all hosts, or of those chosen. The price is the reader's: there is no list."""
    price = text_box(
        "price",
        "Price of a chip-hour",
        "What you pay for one chip for one hour, in any currency. At 1 a cost reads as chip-hours.",
        "1",
    )
    return made(
        "crystools-tpu-cost",
        "Crystools TPU / Cost and capacity",
        "Chip-hours and their cost by pipeline, what failed and cancelled runs took, idle chips, and the "
        "room left in memory and on disks.",
        {"Cost": cost(), "Over time": over_time(), "Capacity": capacity()},
        variables=[*machine_variables(), run_variables()[0], price],
        last="7d",
    )


def cost() -> list[Panel]:
    """The cost of the runs that ended in the dashboard's range: one in progress costs nothing yet."""
    total = f"sum by (simulated) ({CHIP_SECONDS})"
    by_pipeline = f"sum by (pipeline, simulated) ({CHIP_SECONDS})"
    ended = "sum by (pipeline, simulated) (increase(crystools_tpu_runs_total{runs}[$__range]))"
    return [
        number(
            "Chip-hours",
            "Duration of the runs that ended times the chips they ran on.",
            "short",
            Query(f"{total} / 3600", "chip-hours {{simulated}}"),
            decimals=2,
        ),
        number(
            "Cost",
            "Chip-hours times the price of one, in that price's currency.",
            "short",
            Query(f"{total} / 3600 * $price", "cost {{simulated}}"),
            decimals=2,
        ),
        number(
            "Chip-time not succeeded",
            "Chip-time of runs that failed or were cancelled.",
            "s",
            Query(f"sum by (status, simulated) ({WASTED})", "{{status}} {{simulated}}"),
        ),
        rows(
            "By pipeline",
            "Chip-hours and cost of the runs that ended, and what one run costs.",
            "short",
            Column(f"{by_pipeline} / 3600", "Chip-hours"),
            Column(f"{by_pipeline} / 3600 * $price", "Cost"),
            Column(ended, "Runs"),
            Column(f"{by_pipeline} / 3600 * $price / {ended}", "Cost of a run"),
            decimals=2,
        ),
    ]


def over_time() -> list[Panel]:
    """When it was spent, and what for."""
    by = "pipeline, simulated"
    flops = f"sum by ({by}) (increase(crystools_tpu_model_flops_total{{runs}}[$__range]))"
    spent = "increase(crystools_tpu_run_chip_seconds_total{runs}[$__rate_interval])"
    return [
        lines(
            "Chip-hours by pipeline",
            "In each interval, counted when a run ends.",
            "short",
            Query(f"sum by ({by}) ({spent}) / 3600", "{{pipeline}} {{simulated}}"),
            stacked=True,
        ),
        lines(
            "Chip-time by how the run ended",
            "In each interval, counted when a run ends.",
            "s",
            Query(f"sum by (status, simulated) ({spent})", "{{status}} {{simulated}}"),
            stacked=True,
        ),
        number(
            "Model FLOP/s for each chip paid",
            "Model FLOPs over the chip-seconds of the runs that ended, loading and compiling included.",
            "flops",
            Query(f"{flops} / sum by ({by}) ({CHIP_SECONDS})", "{{pipeline}} {{simulated}}"),
            width=8,
        ),
    ]


def capacity() -> list[Panel]:
    """What is idle, and what still fits."""
    chips = "sum by (simulated) (avg_over_time(host:crystools_tpu_chips:count{hosts}[$__range]))"
    return [
        number(
            "Chip-time in runs",
            "Chip-time of the runs that ended over that of all chips there were, in the whole range.",
            "percentunit",
            Query(f"sum by (simulated) ({CHIP_SECONDS}) / ({chips} * $__range_s)", "in runs {{simulated}}"),
            decimals=1,
        ),
        number(
            "Chips below 5% duty cycle",
            "Chips whose mean duty cycle in the whole range was below 5%: they could be given back.",
            "short",
            Query(
                f"count by (slice, simulated) (max by ({BY}, chip) "
                "(avg_over_time(crystools_tpu_chip_duty_cycle_ratio{hosts}[$__range])) < 0.05) or "
                "0 * sum by (slice, simulated) (host:crystools_tpu_chips:count{hosts})",
                "chips {{slice}} {{simulated}}",
            ),
        ),
        lines(
            "Idle chips",
            "The chips' idle time added up: four chips at 75% duty cycle are one idle chip.",
            "short",
            Query(
                f"sum by (slice, simulated) (1 - max by ({BY}, chip) "
                "(crystools_tpu_chip_duty_cycle_ratio{hosts}))",
                "chips {{slice}} {{simulated}}",
            ),
            stacked=True,
        ),
        lines(
            "HBM headroom",
            "Free memory of the fullest chip of each host: what another model could take.",
            "bytes",
            Query(
                f"min by ({BY}) (max by ({BY}, chip) (crystools_tpu_chip_hbm_total_bytes{{hosts}}) - "
                f"max by ({BY}, chip) (crystools_tpu_chip_hbm_used_bytes{{hosts}}))",
                HOST,
            ),
        ),
        rows(
            "Room left",
            "HBM: the least that any chip of the host had free in the whole range. Memory and disk of the "
            "host: now, of several disks the one with the least.",
            "bytes",
            Column(
                f"min by ({BY}) (max by ({BY}, chip) (crystools_tpu_chip_hbm_total_bytes{{hosts}}) - max by "
                f"({BY}, chip) (max_over_time(crystools_tpu_chip_hbm_used_bytes{{hosts}}[$__range])))",
                "HBM",
            ),
            Column(
                f"max by ({BY}) (crystools_tpu_host_memory_total_bytes{{hosts}}) - "
                f"max by ({BY}) (crystools_tpu_host_memory_used_bytes{{hosts}})",
                "Host memory",
            ),
            Column(
                f"min by ({BY}) (crystools_tpu_host_disk_total_bytes{{hosts}} - "
                "crystools_tpu_host_disk_used_bytes{hosts})",
                "Disk",
            ),
            width=24,
        ),
    ]
