"""How a run ended and what its user should know of it, in the words of every table, node and trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from crystools_tpu.telemetry.events import STEP_CACHE, RunReport, StageName, StageReport, Status
from crystools_tpu.telemetry.forecast import forecast_warning
from crystools_tpu.telemetry.labels import stage_label
from crystools_tpu.telemetry.step_times import count_cached
from crystools_tpu.telemetry.suspicion import suspicions

_MAY_BE_USELESS: Final = (Status.RUNNING, Status.SUCCEEDED)
_CALIBRATE: Final = "calibrate"
"""What asks for a step cache's ratios to be measured, and not for a cache."""


def outcome(report: RunReport) -> str:
    """How the run stands or has ended: `succeeded, NaN from step 12`, `cancelled after 12 of 50 steps`."""
    if report.status is Status.CANCELLED and (stage := cancelled_stage(report)) is not None:
        return f"cancelled after {steps_note(stage)}"
    nan = nonfinite_note(report) if report.status in _MAY_BE_USELESS else None
    return report.status.value if nan is None else f"{report.status.value}, {nan}"


def cancelled_stage(report: RunReport) -> StageReport | None:
    """The stage with steps in which the run was cancelled, the innermost; None where it was in none."""
    cancelled = (stage for stage in reversed(report.stages) if stage.status is Status.CANCELLED)
    return next((stage for stage in cancelled if stage.steps_total), None)


def steps_note(stage: StageReport) -> str:
    """`12 of 50 steps`."""
    return f"{len(stage.steps)} of {stage.steps_total} steps"


def kinds_text(stage: StageReport) -> str | None:
    """`12 full, 18 cached`: a stage's steps so far, where a step cache has skipped any of them."""
    cached = count_cached(stage)
    return f"{len(stage.steps) - cached} full, {cached} cached" if cached else None


def skipped_note(report: RunReport) -> str | None:
    """`18 of 40 steps (45%) were skipped by the step cache (mag:0.12,0.2,3)`; None where there is none."""
    asked = report.params.get(STEP_CACHE)
    with_cache = [
        stage
        for stage in report.stages
        if count_cached(stage) or (asked is not None and stage.name is StageName.DENOISE)
    ]
    steps, skipped = sum(len(stage.steps) for stage in with_cache), sum(map(count_cached, with_cache))
    if not steps or (not skipped and asked == _CALIBRATE):
        return None
    by = "a step cache" if asked is None else f"the step cache ({asked})"
    if not skipped:
        return f"none of {steps} steps was skipped by {by}"
    were = "was" if skipped == 1 else "were"
    return f"{skipped} of {steps} steps ({skipped / steps:.0%}) {were} skipped by {by}"


def nonfinite_note(report: RunReport) -> str | None:
    """`NaN from step 12`: where a stage's output was first not finite; None where all were.

    The stage is named unless it is the run's only `denoise`, whose steps are what everybody counts.
    """
    first = next((stage for stage in report.stages if stage.first_nonfinite_step is not None), None)
    if first is None:
        return None
    said = f"NaN from step {first.first_nonfinite_step}"
    is_it = first.name is StageName.DENOISE and sum(s.name is StageName.DENOISE for s in report.stages) == 1
    return said if is_it else f"{said} of {stage_label(first)}"


def run_warnings(report: RunReport) -> tuple[str, ...]:
    """What stands under the run's table, each once.

    What was not to fit, what the run warned of itself (what it evicted among that), stages with a NaN or a
    recompile, and figures that cannot be.
    """
    unfitting = None if report.forecast is None else forecast_warning(report.forecast)
    said = [unfitting, *report.warnings, *(text for stage in report.stages for text in _troubles(stage))]
    said += suspicions(report)
    return tuple(dict.fromkeys(text for text in said if text))


def _troubles(stage: StageReport) -> Iterator[str]:
    label = stage_label(stage)
    if stage.first_nonfinite_step is not None:
        yield f"NaN in {label} from step {stage.first_nonfinite_step} on: the output is not usable"
    if stage.recompiles:
        times = "once" if stage.recompiles == 1 else f"{stage.recompiles} times"
        why = "; ".join(dict.fromkeys(stage.recompile_reasons)) or "jax gives no reason"
        yield f"{label} recompiled {times} after its first step: {why}"
