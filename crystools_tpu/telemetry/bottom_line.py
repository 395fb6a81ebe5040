"""What a comparison of two runs comes to, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from crystools_tpu.telemetry.amounts import duration_text, pace_text, signed_text
from crystools_tpu.telemetry.events import RunReport
from crystools_tpu.telemetry.labels import stage_title
from crystools_tpu.telemetry.spent import Change, Spent, changes_of
from crystools_tpu.telemetry.step_times import count_cached

_MOST_PARTS: Final = 2
_LEAST_SHARE: Final = 0.1

_ON: Final = {
    Spent.COMPILE: "compile in {}",
    Spent.RECOMPILE: "recompile in {}",
    Spent.HOST: "waiting for the host in {}",
    Spent.STEPS: "steps of {}",
    Spent.REST: "in {}",
}


def same_text(a: float, b: float) -> str:
    """Of a change that is none."""
    return f"B is as fast as A: {duration_text(b)}, A {duration_text(a)}."


def noise_text(a: float, b: float) -> str:
    """Of a change that may be chance."""
    took = f"{duration_text(b)}, A {duration_text(a)}"
    return f"No difference but chance: B took {took}, and runs like A differ as much by themselves."


def changed_text(a: RunReport, b: RunReport, otherwise: Sequence[str], *, unproven: bool) -> str:
    """`B is 3.8% slower: +12 s compile in Denoise.` `otherwise` is what was asked differently, in words."""
    a_seconds, b_seconds = a.total_seconds or 0.0, b.total_seconds or 0.0
    difference = b_seconds - a_seconds
    pace = pace_text(b_seconds / a_seconds - 1)
    same_way = [change for change in changes_of(b, [a]) if change.seconds * difference > 0]
    same_way.sort(key=lambda change: -abs(change.seconds))
    large = [change for change in same_way if abs(change.seconds) >= abs(difference) * _LEAST_SHARE]
    parts = [_part_text(change) for change in large[:_MOST_PARTS]] or ["a little everywhere"]
    asked = f", with {', '.join(otherwise)}" if otherwise else ""
    doubt = "; measured too few times to know whether by chance" if unproven else ""
    return f"B is {pace}{asked}: {', '.join(parts)}{doubt}."


def _part_text(change: Change) -> str:
    stage = change.part.stage
    where = "between the stages" if stage is None else _ON[change.part.on].format(stage_title(stage))
    return f"{signed_text(change.seconds)} {where}{_skipped_text(change)}"


def _skipped_text(change: Change) -> str:
    """How many of the steps a step cache skipped in B and in A, where that is not the same."""
    own, usual = change.part.stage, change.usual_stage
    if change.part.on is not Spent.STEPS or own is None or usual is None:
        return ""
    b, a = count_cached(own), count_cached(usual)
    return "" if a == b else f" ({b} of {len(own.steps)} skipped, A {a} of {len(usual.steps)})"
