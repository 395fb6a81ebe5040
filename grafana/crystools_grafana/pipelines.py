"""What the pipelines do: runs, stages, steps, how well they use the chips, what they compile; and nodes."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from crystools_grafana.dashboard import dashboard as made
from crystools_grafana.dashboard import machine_variables, run_variables
from crystools_grafana.panels import Panel, Query, lines, number, quantile

PIPELINE = "{{pipeline}} {{simulated}}"
STAGE = "{{pipeline}} {{stage}} {{simulated}}"
STEP = "{{pipeline}} {{stage}} {{kind}} {{simulated}}"
NODE = "{{node_class}} {{simulated}}"


def dashboard() -> models.Dashboard:
    """The dashboard of all hosts, or of those chosen."""
    return made(
        "crystools-tpu-pipelines",
        "Crystools TPU / Pipelines",
        "Runs, stages and steps of every pipeline, how well they use the chips, and what they compile.",
        {
            "Runs": runs(),
            "Stages": stages(),
            "Steps": steps(),
            "Efficiency": efficiency(),
            "Compilation and memory": compilation(),
            "Nodes of workflows": nodes(),
        },
        variables=[*machine_variables(), *run_variables()],
    )


def runs() -> list[Panel]:
    """How many, how they ended, how long they took."""
    ended = "increase(crystools_tpu_runs_total{runs}[$__range])"
    succeeded = 'increase(crystools_tpu_runs_total{runs,status="succeeded"}[$__range])'
    return [
        number(
            "Runs in progress",
            "Runs that have begun and not ended. A run over several hosts counts once a host.",
            "short",
            Query("sum by (pipeline, simulated) (crystools_tpu_runs_in_progress{runs})", PIPELINE),
        ),
        number(
            "Runs ended",
            "In the whole range, by how they ended. Prometheus extrapolates, so the number is rounded.",
            "short",
            Query(f"sum by (status, simulated) ({ended})", "{{status}} {{simulated}}"),
            decimals=0,
        ),
        number(
            "Succeeded",
            "Share of the runs that ended in the whole range. Cancelled runs count as not succeeded.",
            "percentunit",
            Query(
                f"sum by (simulated) ({succeeded}) / sum by (simulated) ({ended})", "succeeded {{simulated}}"
            ),
            decimals=1,
        ),
        lines(
            "Runs that end",
            "Runs in each interval, by how they ended.",
            "short",
            Query(
                "sum by (status, simulated) (increase(crystools_tpu_runs_total{runs}[$__rate_interval]))",
                "{{status}} {{simulated}}",
            ),
            width=6,
            stacked=True,
        ),
        lines(
            "Run duration",
            "From the first load to the last save, of runs that succeeded; interpolated within the "
            "histogram's buckets.",
            "s",
            *(
                Query(
                    quantile(
                        share,
                        "crystools_tpu_run_duration_seconds",
                        '{runs,status="succeeded"}',
                        "pipeline, simulated",
                    ),
                    f"{name} {PIPELINE}",
                )
                for name, share in (("median", 0.5), ("p95", 0.95))
            ),
            width=6,
        ),
    ]


def stages() -> list[Panel]:
    """Where the time goes."""
    return [
        lines(
            "Time by stage",
            "Seconds that all runs together spent in each stage, for each second that passed. Counted when a "
            "stage ends, so a long stage shows late.",
            "short",
            Query(
                "sum by (pipeline, stage, simulated) "
                "(rate(crystools_tpu_stage_duration_seconds_sum{stages}[$__rate_interval]))",
                STAGE,
            ),
            stacked=True,
        ),
        lines(
            "Stage duration, median",
            "Compilation included; interpolated within the histogram's buckets.",
            "s",
            Query(
                quantile(
                    0.5, "crystools_tpu_stage_duration_seconds", "{stages}", "pipeline, stage, simulated"
                ),
                STAGE,
            ),
        ),
        lines(
            "Stages that end",
            "Stages in each interval, by how they ended. One that failed names where its run broke.",
            "short",
            Query(
                "sum by (stage, status, simulated) "
                "(increase(crystools_tpu_stage_duration_seconds_count{stages}[$__rate_interval]))",
                "{{stage}} {{status}} {{simulated}}",
            ),
            stacked=True,
        ),
    ]


def steps() -> list[Panel]:
    """How fast, and whether what they make is a number."""
    by, by_kind = "pipeline, stage, simulated", "pipeline, stage, kind, simulated"
    seconds = "crystools_tpu_step_duration_seconds"
    return [
        lines(
            "Step time",
            "Time of a step on the device, without steps in which a compile fell; those that a step cache "
            "skipped (cached) apart. Interpolated within the histogram's buckets.",
            "s",
            Query(quantile(0.5, seconds, "{stages}", by_kind), f"median {STEP}"),
            Query(quantile(0.95, seconds, "{stages}", by_kind), f"p95 {STEP}"),
            width=6,
        ),
        lines(
            "Step time, mean",
            "The steps' seconds over their number: exact, where the quantiles are interpolated.",
            "s",
            Query(
                f"sum by ({by_kind}) (rate({seconds}_sum{{stages}}[$__rate_interval])) / "
                f"sum by ({by_kind}) (rate({seconds}_count{{stages}}[$__rate_interval]))",
                STEP,
            ),
            width=6,
        ),
        lines(
            "Steps by kind",
            "Steps in each interval: full, cached where a step cache skipped them, compiled where a compile "
            "fell in them.",
            "short",
            Query(
                f"sum by ({by_kind}) (increase(crystools_tpu_steps_total{{stages}}[$__rate_interval]))",
                STEP,
            ),
            width=6,
            stacked=True,
        ),
        lines(
            "Steps with a NaN or an infinity",
            "In each interval, by the device's own check of what a step puts out. Anything but 0 is a fault.",
            "short",
            Query(
                f"sum by ({by}) (increase(crystools_tpu_nonfinite_steps_total{{stages}}[$__rate_interval]))",
                STAGE,
            ),
            width=6,
        ),
    ]


def efficiency() -> list[Panel]:
    """What the steps make of the chips."""
    by = "pipeline, stage, simulated"
    return [
        lines(
            "MFU",
            "Model FLOPs over time, chips and peak FLOP/s, mean of the hosts. Holds its last value when no "
            "run runs. Not the TensorCore utilisation.",
            "percentunit",
            Query(f"avg by ({by}) (crystools_tpu_stage_mfu_ratio{{stages}})", STAGE),
            width=6,
        ),
        lines(
            "MBU",
            "Bytes that had to move over time, chips and peak bandwidth, of the latest stage that ended; "
            "mean of the hosts.",
            "percentunit",
            Query(f"avg by ({by}) (crystools_tpu_stage_mbu_ratio{{stages}})", STAGE),
            width=6,
        ),
        lines(
            "Model FLOP/s",
            "Of the architecture, over all chips. Counted when a stage ends, so a long stage shows late.",
            "flops",
            Query(
                "sum by (pipeline, stage, simulated) "
                "(rate(crystools_tpu_model_flops_total{stages}[$__rate_interval]))",
                STAGE,
            ),
            width=6,
            stacked=True,
        ),
        lines(
            "HBM at peak",
            "Of the fullest device, in the latest stage that ended.",
            "bytes",
            Query(
                "max by (pipeline, stage, simulated) (crystools_tpu_stage_hbm_peak_bytes{stages})",
                STAGE,
            ),
            width=6,
        ),
    ]


def compilation() -> list[Panel]:
    """What was compiled, and again, and what left the memory."""
    return [
        lines(
            "Time spent compiling",
            "Seconds of backend compiles in each interval. `hit` came out of the compilation cache.",
            "s",
            Query(
                "sum by (pipeline, cache, simulated) "
                "(increase(crystools_tpu_compile_duration_seconds_sum{stages}[$__rate_interval]))",
                "{{pipeline}} {{cache}} {{simulated}}",
            ),
            width=6,
            stacked=True,
        ),
        lines(
            "Compiles",
            "Backend compiles in each interval, by what the compilation cache did.",
            "short",
            Query(
                "sum by (stage, cache, simulated) "
                "(increase(crystools_tpu_compiles_total{stages}[$__rate_interval]))",
                "{{stage}} {{cache}} {{simulated}}",
            ),
            width=6,
            stacked=True,
        ),
        lines(
            "Recompiles",
            "Steps after the first of their stage in which something was compiled, in each interval. The "
            "run's report says why.",
            "short",
            Query(
                "sum by (pipeline, stage, simulated) "
                "(increase(crystools_tpu_recompiles_total{stages}[$__rate_interval]))",
                STAGE,
            ),
            width=6,
        ),
        lines(
            "Components that left the memory",
            "Text encoders, transformers and VAEs, in each interval: evicted for another, freed by the user, "
            "or because the memory ran out.",
            "short",
            Query(
                "sum by (reason, simulated) "
                "(increase(crystools_tpu_components_freed_total{hosts}[$__rate_interval]))",
                "{{reason}} {{simulated}}",
            ),
            width=6,
        ),
    ]


def nodes() -> list[Panel]:
    """What the nodes of ComfyUI's workflows cost, by their class."""
    by = "node_class, simulated"
    duration, step = "crystools_tpu_node_duration_seconds", "crystools_tpu_node_step_duration_seconds"
    return [
        lines(
            "Slowest node classes",
            "Seconds that all workflows together spent in the nodes of a class, for each second that passed: "
            "the ten classes with the most. Classes of other node packs are `other`; a node that expands "
            "into others has their time too. Counted when a node ends.",
            "short",
            Query(f"topk(10, sum by ({by}) (rate({duration}_sum{{hosts}}[$__rate_interval])))", NODE),
            width=6,
        ),
        lines(
            "Node duration, median",
            "Interpolated within the histogram's buckets.",
            "s",
            Query(quantile(0.5, duration, "{hosts}", by), NODE),
            width=6,
        ),
        lines(
            "Node step time, median",
            "Time between two reports of a node's progress, without the first; interpolated within the "
            "histogram's buckets.",
            "s",
            Query(quantile(0.5, step, "{hosts}", by), NODE),
            width=6,
        ),
        lines(
            "Memory of nodes at peak",
            "Of the fullest device, and of the process on the host, in the latest node of the class.",
            "bytes",
            Query(f"max by ({by}) (crystools_tpu_node_hbm_peak_bytes{{hosts}})", f"HBM {NODE}"),
            Query(f"max by ({by}) (crystools_tpu_node_host_memory_peak_bytes{{hosts}})", f"host {NODE}"),
            width=6,
        ),
    ]
