"""Figures that cannot be, with the reason: they are shown as they were measured, but marked, and not judged.

What is merely unlikely is none of them. The page has the same rules (`web/suspicion.js`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from crystools_tpu.telemetry.events import CACHED, HbmUsage, Ratio, RunReport, StageReport
from crystools_tpu.telemetry.labels import size_label, stage_label

MARK: Final = "?"
"""What stands behind a figure that cannot be."""

_ROUGH: Final = 2.0
"""A CPU may do so much more than its peak, which was measured for a moment beside whatever else ran."""

_FLOPS: Final = "the pipeline declares too many FLOPs a step (flops_per_step)"


def is_suspect(ratio: Ratio | None) -> bool:
    """Whether an MFU or MBU cannot be: it is of more than the devices can do."""
    if ratio is None:
        return False
    return not 0 <= ratio.ratio <= (_ROUGH if _peak_is(ratio, "measured") else 1.0)


def is_before_zero(seconds: float | None) -> bool:
    """Whether a duration cannot be."""
    return seconds is not None and seconds < 0


def suspect_figures(stage: StageReport) -> Mapping[str, str]:
    """Why some of the stage's figures cannot be, by the names that a comparison has for them."""
    steps, cached = stage.step_seconds, (stage.step_seconds_by_kind or {}).get(CACHED)
    reasons: dict[str, str | None] = {
        "seconds": _before_zero("time", stage.seconds),
        "compile_seconds": _before_zero("compile", stage.compile_seconds),
        "step_seconds_median": _before_zero("step", steps.median if steps else None),
        "step_seconds_p95": _before_zero("step, p95", steps.p95 if steps else None),
        "cached_step_seconds_median": _before_zero("skipped step", cached.median if cached else None),
        "mfu_ratio": _of_ratio("MFU", stage.mfu),
        "mbu_ratio": _of_ratio("MBU", stage.mbu),
        "hbm_peak_bytes": next(filter(None, map(_of_memory, stage.hbm)), None),
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}


def suspicions(report: RunReport) -> Iterator[str]:
    """What cannot be of a run's figures, a sentence each, with what to do."""
    if (reason := _before_zero("time", report.total_seconds)) is not None:
        yield f"whole run: {reason}"
    for stage in report.stages:
        for reason in dict.fromkeys(suspect_figures(stage).values()):
            yield f"{stage_label(stage)}: {reason}"


def _of_ratio(name: str, ratio: Ratio | None) -> str | None:
    if ratio is None or not is_suspect(ratio):
        return None
    return f"{name} {ratio.ratio:.1%} cannot be, it is more than the devices can do: {_causes(ratio)}"


def _causes(ratio: Ratio) -> str:
    if ratio.unit == "byte":
        return "the pipeline declares too many bytes a step (bytes_per_step)"
    if _peak_is(ratio, "measured"):
        return f"{_FLOPS}, or the peak that was measured of the CPU is far too low (give peak_flops_per_chip)"
    if _peak_is(ratio, "given"):
        return f"{_FLOPS}, or the peak that was given (peak_flops_per_chip) is too low"
    return f"{_FLOPS}, or it computes in a format that is faster than bf16, whose peak this is of"


def _peak_is(ratio: Ratio, how: str) -> bool:
    """Whether the peak comes from there, as `roofline.mfu` and `device` say it."""
    return f"peak: {how}" in ratio.method


def _of_memory(usage: HbmUsage) -> str | None:
    """torch's is left out: with some drivers it may have more than the device, from the host's memory."""
    limit = usage.limit_bytes
    if usage.peak_bytes >= 0 and (
        limit is None or usage.peak_bytes <= limit or not usage.method.startswith("memory_stats")
    ):
        return None
    of = "" if limit is None else f" of {size_label(limit)}"
    return (
        f"HBM peak {size_label(usage.peak_bytes)}{of} on {usage.device} cannot be: "
        f"what {usage.method} says is wrong; update libtpu or the driver"
    )


def _before_zero(name: str, seconds: float | None) -> str | None:
    if seconds is None or not is_before_zero(seconds):
        return None
    return f"{name} {seconds:.3f} s cannot be: the report was altered, or is of a clock that was set back"
