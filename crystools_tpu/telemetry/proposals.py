"""What would make a run faster, and by how much: as its own report and other runs of the same model say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from crystools_tpu.telemetry.amounts import amount_text, duration_text, pace_text
from crystools_tpu.telemetry.asked import otherwise_text
from crystools_tpu.telemetry.causes import Cause, Finding, step_seconds
from crystools_tpu.telemetry.events import STEP_CACHE, RunReport, Status
from crystools_tpu.telemetry.labels import short_id
from crystools_tpu.telemetry.spent import Spent, parts_of

_WORTH_IT: Final = -0.03
_STEPS: Final = "num_inference_steps"
_SHAPE: Final = ("height", "width", "num_frames")
_AVOIDABLE: Final = {
    Cause.RECOMPILE: (Spent.RECOMPILE, "without the recompiles"),
    Cause.HOST: (Spent.HOST, "if the chips never waited for the host"),
    Cause.CACHE_OFF: (Spent.COMPILE, "with JAX_COMPILATION_CACHE_DIR set, from the second run on at most"),
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """One change, in words with its figures. `ratio` is how much longer the run, or a step, would take.

    It is known by another run of the history, by a plan that was kept (the compiler's estimates), or by the
    run's own report.
    """

    text: str
    ratio: float
    by: Literal["history", "plan", "run"]
    run_id: str | None = None


def proposals_of(
    run: RunReport, findings: Sequence[Finding], others: Iterable[RunReport]
) -> tuple[Proposal, ...]:
    """What the run's report and the others say, what saves most first."""
    return tuple(sorted([*_avoidable(run, findings), *_by_history(run, others)], key=lambda each: each.ratio))


def _avoidable(run: RunReport, findings: Sequence[Finding]) -> Iterator[Proposal]:
    """What the run spent on what it need not have done."""
    total, parts = run.total_seconds or 0.0, parts_of(run)
    for cause in dict.fromkeys(finding.cause for finding in findings):
        if cause in _AVOIDABLE and total:
            on, how = _AVOIDABLE[cause]
            seconds = sum(part.seconds for part in parts.values() if part.on is on)
            if -seconds / total <= _WORTH_IT:
                less = f"{amount_text(seconds)} less of {duration_text(total)}"
                yield Proposal(f"{how}: {less}, {pace_text(-seconds / total)}", -seconds / total, "run")


def _by_history(run: RunReport, others: Iterable[RunReport]) -> Iterator[Proposal]:
    """Runs of the same model that differ in one thing, and were faster; of each thing the newest."""
    seen = set()
    for other in sorted(others, key=lambda other: -other.started_unix_seconds):
        same_model = (other.pipeline, other.model_id) == (run.pipeline, run.model_id)
        if other.run_id == run.run_id or other.status is not Status.SUCCEEDED or not same_model:
            continue
        change = _only_change(run, other)
        if change is None or change in seen:
            continue
        seen.add(change)
        if (proposal := _faster(run, other, change)) is not None:
            yield proposal


def _only_change(run: RunReport, other: RunReport) -> str | None:
    """What the other did otherwise, in words; None where that is nothing, or more than one thing."""
    content = run.content | other.content
    names = [name for name in {**run.params, **other.params} if name not in content]
    differing = {name for name in names if run.params.get(name) != other.params.get(name)}
    devices = _devices(run), _devices(other)
    if devices[0] != devices[1]:
        # Other devices have another mesh.
        return f"on {devices[1]} instead of {devices[0]}" if differing <= {"mesh"} else None
    if differing and differing <= set(_SHAPE):
        return f"at {_shape(other)} instead of {_shape(run)}"
    if len(differing) != 1:
        return None
    (name,) = differing
    own, theirs = run.params.get(name), other.params.get(name)
    if name != STEP_CACHE and (own is None or theirs is None):
        return None
    return otherwise_text(name, theirs, own).replace(name, name.replace("_", " "))


def _faster(run: RunReport, other: RunReport, change: str) -> Proposal | None:
    """By the step where that differs, or else by the whole run."""
    by = f"(run {short_id(other.run_id)})"
    own, theirs = step_seconds(run), step_seconds(other)
    skips = run.params.get(STEP_CACHE) != other.params.get(STEP_CACHE)
    fewer = skips or run.params.get(_STEPS) != other.params.get(_STEPS)
    if not skips and own and theirs and theirs / own - 1 <= _WORTH_IT:
        ratio, unit = theirs / own - 1, "a step"
    elif fewer and run.total_seconds and other.total_seconds:
        theirs, own = other.total_seconds, run.total_seconds
        ratio, unit = theirs / own - 1, "in all"
    else:
        return None
    if ratio > _WORTH_IT:
        return None
    took = f"{duration_text(theirs)} {unit} {by}, this one {duration_text(own)}"
    return Proposal(f"{change}: {took}, {pace_text(ratio)}", ratio, "history", other.run_id)


def _devices(run: RunReport) -> str:
    return "unknown devices" if run.device is None else f"{run.device.count} x {run.device.kind}"


def _shape(run: RunReport) -> str:
    height, width, frames = (run.params.get(name) for name in _SHAPE)
    return f"{height} x {width}" + (f", {frames} frames" if frames is not None else "")
