"""What is to be said of a run that did not come to its end: where it was, why, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from crystools_tpu.telemetry.amounts import duration_text
from crystools_tpu.telemetry.events import RunReport, StageReport, Status
from crystools_tpu.telemetry.labels import short_id, stage_title
from crystools_tpu.telemetry.peers import is_same_work
from crystools_tpu.telemetry.stage_tree import walk

_NO_MEMORY: Final = re.compile(r"RESOURCE_EXHAUSTED|[Oo]ut of (device |host )?memory|OutOfMemory")
_SAYS_WHAT_TO_DO: Final = re.compile(r"; try |; give |\bgive (one|another|some)\b|numpy\.load reads them")
_NAME: Final = re.compile(r"^[A-Za-z_.]*(Error|Exception): ")

_HOW: Final = {
    Status.FAILED: "failed",
    Status.CANCELLED: "was cancelled",
    Status.INTERRUPTED: "ended without a word",
}
_MOST_CHARACTERS: Final = 160


def ending_text(run: RunReport) -> str:
    """`Failed in Denoise at step 12 of 50, after 58.0 s: RESOURCE_EXHAUSTED: ...`."""
    stage = _last_stage(run)
    where = "" if stage is None else f" in {stage_title(stage)}{_step(stage)}"
    after = "" if run.total_seconds is None else f", after {duration_text(run.total_seconds)}"
    said = f"It {_HOW[run.status]}{where}{after}"
    error = _NAME.sub("", (run.error or "").strip().partition("\n")[0])
    if run.status is not Status.FAILED or not error:
        return said
    short = error if len(error) <= _MOST_CHARACTERS else f"{error[: _MOST_CHARACTERS - 1]}…"
    return f"{said}: {short.rstrip('.')}"


def what_next(run: RunReport, earlier: Iterable[RunReport]) -> str | None:
    """The next thing to do; None after a cancel, and where the error says it itself."""
    if run.status is Status.INTERRUPTED:
        return "the system's log (`journalctl -k`) says whether it was killed for want of memory"
    if run.status is not Status.FAILED or _SAYS_WHAT_TO_DO.search(run.error or ""):
        return None
    if _NO_MEMORY.search(run.error or ""):
        shapes = run.forecast.would_fit if run.forecast is not None else ()
        if shapes:
            return f"by its plan {' or '.join(shapes)} would fit"
        return "ask for less, or for more chips: `crystools-tpu plan` says what fits"
    before = next((other for other in earlier if is_same_work(run, other)), None)
    if before is not None:
        return f"the same succeeded before, in run {short_id(before.run_id)}: see what has changed since"
    return "the log of its process has the whole error"


def _last_stage(run: RunReport) -> StageReport | None:
    """The innermost that did not end well, or else the last that began."""
    order = [run.stages[position] for position, _ in walk(run.stages)]
    unfinished = [stage for stage in order if stage.status is not Status.SUCCEEDED]
    return next(reversed(unfinished or order), None)


def _step(stage: StageReport) -> str:
    if not stage.steps_total or len(stage.steps) >= stage.steps_total:
        return ""
    return f" at step {len(stage.steps)} of {stage.steps_total}"
