"""A fleet of hosts, in slices or alone: what is down, who lags behind, and each host in a row."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from crystools_grafana.dashboard import dashboard as made
from crystools_grafana.dashboard import machine_variables, run_variables
from crystools_grafana.panels import Column, Panel, Query, lines, number, quantile, rows

HOST = "{{slice}} {{host}} {{simulated}}"
BY = "slice, host, simulated"
JOB = 'job=~"crystools-tpu.*",slice=~"$slice",host=~"$host"'


def dashboard() -> models.Dashboard:
    """The dashboard of all hosts, or of the slices that are chosen."""
    return made(
        "crystools-tpu-fleet",
        "Crystools TPU / Fleet",
        "All hosts of one Prometheus: what is down, which host of a slice lags behind the others, and the "
        "figures of each.",
        {
            "Fleet": totals(),
            "Stragglers": stragglers(),
            "Hosts": hosts(),
            "Runs": runs(),
            "Transfers": transfers(),
        },
        variables=[*machine_variables(), *run_variables()],
        last="3h",
    )


def totals() -> list[Panel]:
    """How many, and what is wrong."""
    return [
        number(
            "Hosts",
            "Hosts that answer, by slice.",
            "short",
            Query(
                f"count by (slice, simulated) (max by ({BY}) (crystools_tpu_build_info{{hosts}}))",
                "hosts {{slice}} {{simulated}}",
            ),
        ),
        number(
            "Chips",
            "Chips that report now, by slice.",
            "short",
            Query(
                "sum by (slice, simulated) (host:crystools_tpu_chips:count{hosts})",
                "chips {{slice}} {{simulated}}",
            ),
        ),
        number(
            "Targets up",
            "Share of the scraped addresses that answer.",
            "percentunit",
            Query(f"avg by (job) (up{{{JOB}}})", "{{job}}"),
        ),
        rows(
            "Alerts",
            "Of these rules, pending or firing, each with a runbook page.",
            "short",
            Column(
                "max by (alertname, alertstate, severity, slice, host, simulated) "
                '(ALERTS{alertname=~"CrystoolsTpu.*",slice=~"$slice",host=~"$host"})',
                "Active",
            ),
        ),
    ]


def stragglers() -> list[Panel]:
    """Each host against the median of its slice: 1 is like the others."""
    return [
        lines(
            "Step time against the slice",
            "Mean step time of a host over the median of its slice's hosts, same pipeline, stage and kind of "
            "step. An alert fires above 1.2 for steps that no step cache skipped. Hosts in lockstep all show "
            "the time of the slowest.",
            "none",
            Query(
                "host_stage:crystools_tpu_step_duration_seconds:ratio_to_slice{stages}",
                f"{HOST} {{{{pipeline}}}} {{{{stage}}}} {{{{kind}}}}",
            ),
            minimum=None,
        ),
        lines(
            "Duty cycle against the slice",
            "Mean duty cycle of a host's chips over the median of its slice's. An alert fires below 0.8.",
            "none",
            Query("host:crystools_tpu_chip_duty_cycle:ratio_to_slice{hosts}", HOST),
            minimum=None,
        ),
        lines(
            "Duty cycle, least busy chip",
            "Of each host.",
            "percentunit",
            Query(f"min by ({BY}) (crystools_tpu_chip_duty_cycle_ratio{{hosts}})", HOST),
            maximum=1,
        ),
    ]


def hosts() -> list[Panel]:
    """Each in a row, then over time."""
    down = f"sum by ({BY}) (1 - crystools_tpu_source_up{{hosts}})"
    return [
        rows(
            "Utilisation",
            "Now. HBM is of the fullest chip, duty cycle and TensorCore are the mean of all.",
            "percentunit",
            Column(f"max by ({BY}) (chip:crystools_tpu_chip_hbm_used:ratio{{hosts}})", "HBM"),
            Column("host:crystools_tpu_chip_duty_cycle:avg{hosts}", "Duty cycle"),
            Column(f"avg by ({BY}) (crystools_tpu_chip_tensorcore_utilization_ratio{{hosts}})", "TensorCore"),
            Column(f"max by ({BY}) (crystools_tpu_host_cpu_utilization_ratio{{hosts}})", "CPU"),
            decimals=0,
        ),
        rows(
            "Counts",
            "Now. Chips are those with figures, which attached ones have while a program uses them. A source "
            "that a machine lacks, or whose chips are idle, does not count as down.",
            "short",
            Column("host:crystools_tpu_chips:count{hosts}", "Chips"),
            Column(f"max by ({BY}) (crystools_tpu_chips_attached{{hosts}})", "TPU chips attached"),
            Column(f"sum by ({BY}) (crystools_tpu_runs_in_progress{{hosts}})", "Runs in progress"),
            Column(down, "Sources down"),
            Column(f"max by ({BY}) (crystools_tpu_host_cpus{{hosts}})", "CPUs"),
            Column(f"max by ({BY}) (crystools_tpu_machine_cpus{{hosts}})", "CPUs of the machine"),
        ),
        lines(
            "Duty cycle",
            "Mean of each host's chips.",
            "percentunit",
            Query("host:crystools_tpu_chip_duty_cycle:avg{hosts}", HOST),
            maximum=1,
        ),
        lines(
            "HBM in use, fullest chip",
            "Of each host.",
            "percentunit",
            Query(f"max by ({BY}) (chip:crystools_tpu_chip_hbm_used:ratio{{hosts}})", HOST),
            maximum=1,
        ),
        lines(
            "Sources down",
            "Of each host. A source that a machine lacks does not count.",
            "short",
            Query(down, HOST),
        ),
    ]


def runs() -> list[Panel]:
    """Whether all hosts of a slice do the same."""
    return [
        lines(
            "Runs in progress",
            "By host. In a run over a whole slice all hosts show the same number.",
            "short",
            Query(f"sum by ({BY}) (crystools_tpu_runs_in_progress{{runs}})", HOST),
        ),
        lines(
            "Step time",
            "Mean over the last five minutes, by host and kind of step.",
            "s",
            Query(
                "host_stage:crystools_tpu_step_duration_seconds:mean5m{stages}",
                f"{HOST} {{{{pipeline}}}} {{{{stage}}}} {{{{kind}}}}",
            ),
        ),
        lines(
            "MFU while steps are made",
            "By host. No value while no step ends.",
            "percentunit",
            Query(
                "host_stage:crystools_tpu_stage_mfu_ratio:active{stages}",
                f"{HOST} {{{{pipeline}}}} {{{{stage}}}}",
            ),
        ),
    ]


def transfers() -> list[Panel]:
    """Whether one host waits for the network, or the others for it."""
    return [
        lines(
            "Transfers, p95",
            "Operations between slices and between host and device, by host, as Megascale times them; "
            "interpolated within its buckets.",
            "s",
            Query(
                quantile(0.95, "crystools_tpu_megascale_latency_seconds", "{hosts}", f"operation, {BY}"),
                f"{{{{operation}}}} {HOST}",
            ),
            width=24,
        ),
    ]
