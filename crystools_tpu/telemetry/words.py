"""How a run ended and what its user should know of it, in the words of every table, node and trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from crystools_tpu.telemetry.events import RunReport, StageName, StageReport, Status
from crystools_tpu.telemetry.forecast import forecast_warning
from crystools_tpu.telemetry.labels import stage_label
from crystools_tpu.telemetry.suspicion import suspicions

_MAY_BE_USELESS: Final = (Status.RUNNING, Status.SUCCEEDED)


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
