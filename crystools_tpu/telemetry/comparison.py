"""Two runs side by side: what changed, by how much, and whether that can be chance.

A figure that was measured many times (steps) is judged by its own spread. One that a run measures once is
judged by the spread over runs that are alike, where there are any; without them a difference is `unproven`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist
from typing import Final, Literal, TypeAlias

from crystools_tpu.telemetry.asked import otherwise_text
from crystools_tpu.telemetry.bottom_line import changed_text, noise_text, same_text
from crystools_tpu.telemetry.device_names import devices_label
from crystools_tpu.telemetry.events import CACHED, OMIT_DEFAULT, RunReport, StageName, StageReport, Status
from crystools_tpu.telemetry.labels import stage_label
from crystools_tpu.telemetry.spent import RUNS_TO_JUDGE_BY
from crystools_tpu.telemetry.stage_tree import parent_of, walk
from crystools_tpu.telemetry.step_times import count_cached, full_seconds, seconds_by_kind
from crystools_tpu.telemetry.suspicion import is_before_zero, suspect_figures, suspicions
from crystools_tpu.telemetry.words import nonfinite_note, outcome

SAME_RATIO: Final = 0.01
"""A smaller change is none: the same program, run twice on a quiet machine, differs by as much."""

_CONFIDENCE: Final = 0.95


class Verdict(StrEnum):
    """What is to be thought of a change."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    """Changed by less than 1%."""
    NOISE = "noise"
    """No more than it changes by itself."""
    UNPROVEN = "unproven"
    """Changed, but measured too few times to know whether by chance."""


Figure: TypeAlias = Literal[
    "seconds",
    "compile_seconds",
    "step_seconds_median",
    "step_seconds_p95",
    "cached_step_seconds_median",
    "cached_steps",
    "mfu_ratio",
    "hbm_peak_bytes",
]
"""Those of steps are of steps that no step cache has skipped, but for the two of `cached` ones."""

Side: TypeAlias = Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both runs. `ratio` is how much larger it is in B: 0.1 is 10% more.

    `verdict` is None where a figure is unknown in one of them, or says nothing about better or worse.
    `suspect` are those in which the figure cannot be: then nothing is made of the change.
    """

    name: Figure
    a: float | None
    b: float | None
    ratio: float | None
    verdict: Verdict | None
    suspect: tuple[Side, ...] = field(default=(), metadata=OMIT_DEFAULT)


@dataclass(frozen=True, slots=True)
class StageComparison:
    """One stage of both runs.

    They are the same by name and component, in their order where a run has several of them; of a workflow's
    nodes by the class and the id; and only where they are parts of the same. `label` says that in words:
    `Wan2.1 Sampler > denoise transformer`. It is `unchanged` where no figure of it changed by more than by
    itself; the times of a stage that takes less than 1% of both runs do not count.
    """

    name: StageName
    component: str | None
    label: str
    changes: tuple[Change, ...]
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A parameter, the pipeline or the device that is not the same."""

    name: str
    a: str | int | float | bool | None
    b: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run A, the baseline, and run B.

    `incomparable` says, a sentence each, why B's figures say nothing about A's: one of them did not do its
    work to the end, or they did not do the same on the same devices. `remarks` are what should be known of
    figures that can be compared all the same: that what was made is NaN, that a figure cannot be.
    `bottom_line` is what it all comes to, in a sentence.
    """

    a: str
    b: str
    a_status: Status
    b_status: Status
    incomparable: tuple[str, ...]
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]
    stages: tuple[StageComparison, ...]
    remarks: tuple[str, ...] = ()
    bottom_line: str = ""


def compare(a: RunReport, b: RunReport, others: Sequence[RunReport] = ()) -> Comparison:
    """Compares B with A. `others` are runs of which those that are like A show how much a figure varies."""
    runs = [a, *(run for run in others if run.run_id not in (a.run_id, b.run_id) and is_alike(a, run))]
    stages_a, stages_b = [_keyed_stages(run) for run in runs], _keyed_stages(b)
    labels = _labels({**stages_a[0], **stages_b})
    total = _compare_whole(runs, b)
    incomparable, differences = _incomparable(a, b), _differences(a, b)
    return Comparison(
        a=a.run_id,
        b=b.run_id,
        a_status=a.status,
        b_status=b.status,
        incomparable=incomparable,
        differences=differences,
        changes=(total,),
        stages=tuple(
            _compare_stage(key, label, [stages.get(key) for stages in stages_a], stages_b.get(key), total)
            for key, label in labels.items()
        ),
        remarks=tuple(remark for name, run in (("A", a), ("B", b)) for remark in _remarks(name, run)),
        bottom_line=_bottom_line(a, b, total, incomparable, differences),
    )


def _remarks(name: str, run: RunReport) -> Iterator[str]:
    if nonfinite_note(run) is not None:
        yield f"{name} {outcome(run)}"
    yield from (f"{name}: {reason}" for reason in suspicions(run))


def _bottom_line(
    a: RunReport,
    b: RunReport,
    total: Change,
    incomparable: Sequence[str],
    differences: Sequence[Difference],
) -> str:
    if incomparable:
        return f"Not comparable: {'; '.join(incomparable)}."
    if total.suspect:
        sides = " and ".join(side.upper() for side in total.suspect)
        return f"Nothing to compare: {sides} cannot have taken that long."
    if total.a is None or total.b is None or total.ratio is None:
        return f"Nothing to compare: how long {'A' if total.a is None else 'B'} took is not known."
    if total.verdict is Verdict.SAME:
        return same_text(total.a, total.b)
    if total.verdict is Verdict.NOISE:
        return noise_text(total.a, total.b)
    otherwise = [otherwise_text(each.name, each.b, each.a) for each in differences]
    return changed_text(a, b, otherwise, unproven=total.verdict is Verdict.UNPROVEN)


def is_alike(a: RunReport, b: RunReport) -> bool:
    """Whether both did the same work on the same kind and number of devices, and B to its end."""
    return b.status is Status.SUCCEEDED and not _differences(a, b)


def regressions(
    comparison: Comparison, limit_ratio: float
) -> tuple[tuple[StageComparison | None, Change], ...]:
    """What got worse by more than `limit_ratio`, with its stage (None for the whole run).

    What is noise does not count, nor do the times of a stage that takes less than 1% of its run. What is
    unproven counts, for a run that is measured once is all that some have; the 95th percentile of steps does
    not, which needs about a hundred steps to mean anything.
    """
    (total,) = comparison.changes
    found: list[tuple[StageComparison | None, Change]] = [(None, total)] if _fails(total, limit_ratio) else []
    for stage in comparison.stages:
        seconds = stage.changes[0]
        counts = max(_share(seconds.a, total.a), _share(seconds.b, total.b)) >= SAME_RATIO
        found += [
            (stage, change)
            for change in stage.changes
            if (counts or change.name == "hbm_peak_bytes") and _fails(change, limit_ratio)
        ]
    return tuple(found)


_OUTCOMES: Final = {
    Status.RUNNING: "is still running",
    Status.FAILED: "failed",
    Status.CANCELLED: "was cancelled",
    Status.INTERRUPTED: "was interrupted",
}

_KINDS: Final = {"pipeline": "pipelines", "model_id": "models", "device": "devices"}

_MOST_OF_AN_ERROR: Final = 200
_MOST_ABOVE: Final = 3

_EXACT: Final = ("memory_stats", "torch_memory_stats")


def _incomparable(a: RunReport, b: RunReport) -> tuple[str, ...]:
    """Other parameters are no reason, but a difference: somebody may want to know what they cost."""
    said = [_outcome(name, run) for name, run in (("B", b), ("A", a)) if run.status is not Status.SUCCEEDED]
    if a.run_id == b.run_id:
        said.append("A and B are the same run")
    said += [
        f"different {_KINDS[difference.name]}: A {difference.a or 'unknown'}, B {difference.b or 'unknown'}"
        for difference in _differences_of_kind(a, b)
    ]
    return tuple(said)


def _outcome(name: str, run: RunReport) -> str:
    first_line = (run.error or "").strip().partition("\n")[0]
    return f"{name} {_OUTCOMES[run.status]}" + (f" ({first_line[:_MOST_OF_AN_ERROR]})" if first_line else "")


def _fails(change: Change, limit_ratio: float) -> bool:
    proven = change.verdict is Verdict.WORSE
    alone = change.verdict is Verdict.UNPROVEN and change.name != "step_seconds_p95"
    return change.ratio is not None and change.ratio > limit_ratio and (proven or alone)


def _share(part: float | None, total: float | None) -> float:
    return part / total if part is not None and total else 0.0


def _differences(a: RunReport, b: RunReport) -> tuple[Difference, ...]:
    """The differences that may change a time: a parameter that is content in one of them does not count."""
    content = a.content | b.content
    names = [name for name in {**a.params, **b.params} if name not in content]
    pairs = [Difference(name, a.params.get(name), b.params.get(name)) for name in names]
    return (*_differences_of_kind(a, b), *(pair for pair in pairs if pair.a != pair.b))


def _differences_of_kind(a: RunReport, b: RunReport) -> tuple[Difference, ...]:
    """Differences of what the runs are of, and of what they ran on."""
    pairs = (
        Difference("pipeline", a.pipeline, b.pipeline),
        Difference("model_id", a.model_id, b.model_id),
        Difference("device", _device_text(a), _device_text(b)),
    )
    return tuple(pair for pair in pairs if pair.a != pair.b)


def _device_text(report: RunReport) -> str | None:
    return None if report.device is None else devices_label(report.device)


_Own: TypeAlias = tuple[StageName, str | None, str | None, int]
"""Name, component, the node's id, and the how manyth of these among the parts of the same."""

_Key: TypeAlias = tuple[_Own, ...]
"""A stage after those that it is a part of, the outermost first."""


def _keyed_stages(report: RunReport) -> dict[_Key, StageReport]:
    keys: dict[int, _Key] = {}
    seen: Counter[tuple[_Key, StageName, str | None, str | None]] = Counter()
    for position, _ in walk(report.stages):
        stage, parent = report.stages[position], parent_of(report.stages, position)
        above = () if parent is None else keys[parent]
        own = stage.name, stage.component, None if stage.node is None else stage.node.id
        keys[position] = (*above, (*own, seen[above, *own]))
        seen[above, *own] += 1
    return {key: report.stages[position] for position, key in keys.items()}


def _labels(stages: Mapping[_Key, StageReport]) -> dict[_Key, str]:
    """What each is called; of nodes beside each other with the same name their ids say which is which."""
    beside = Counter((key[:-1], stage_label(stage)) for key, stage in stages.items())
    paths: dict[_Key, tuple[str, ...]] = {(): ()}
    for key, stage in stages.items():
        own = stage_label(stage)
        if stage.node is not None and beside[key[:-1], own] > 1:
            own = f"{own} #{stage.node.id}"
        paths[key] = (*paths.get(key[:-1], ()), own)
    return {key: " > ".join(_shortened(paths[key])) for key in stages}


def _shortened(path: tuple[str, ...]) -> tuple[str, ...]:
    return path if len(path) <= _MOST_ABOVE else (path[0], "...", path[-1])


def _compare_whole(runs: Sequence[RunReport], b: RunReport) -> Change:
    a, *_ = runs
    sides: tuple[tuple[Side, RunReport], ...] = (("a", a), ("b", b))
    suspect = tuple(side for side, run in sides if is_before_zero(run.total_seconds))
    if suspect:
        return Change("seconds", a.total_seconds, b.total_seconds, None, None, suspect)
    judged = a.status is b.status is Status.SUCCEEDED
    return _change("seconds", [run.total_seconds for run in runs], b.total_seconds, judged=judged)


def _compare_stage(
    key: _Key,
    label: str,
    stages_a: Sequence[StageReport | None],
    stage_b: StageReport | None,
    total: Change,
) -> StageComparison:
    stage_a = stages_a[0]
    figures_a, figures_b = [_figures(stage) for stage in stages_a], _figures(stage_b)
    cache_a, cache_b = (stage and stage.compile_cache for stage in (stage_a, stage_b))
    # What a stage had taken when it broke off is no better than what a whole one takes.
    ended = all(stage.status is Status.SUCCEEDED for stage in (stage_a, stage_b) if stage is not None)

    def change(name: Figure, *, judged: bool = True, exact: bool = False) -> Change:
        values = [figures.get(name) for figures in figures_a]
        if sides := suspect(name):
            return Change(name, values[0], figures_b.get(name), None, None, sides)
        return _change(name, values, figures_b.get(name), judged=judged and ended, exact=exact)

    def suspect(name: Figure) -> tuple[Side, ...]:
        sides: tuple[tuple[Side, StageReport | None], ...] = (("a", stage_a), ("b", stage_b))
        return tuple(side for side, stage in sides if stage is not None and name in suspect_figures(stage))

    seconds = change("seconds")
    others = (
        change("compile_seconds", judged=cache_a == cache_b),
        _judge_by_steps(change("step_seconds_median"), 0.5, stage_a, stage_b),
        _judge_by_steps(change("step_seconds_p95"), 0.95, stage_a, stage_b),
        _judge_by_steps(change("cached_step_seconds_median"), 0.5, stage_a, stage_b, cached=True),
        change("cached_steps", judged=False),
        change("mfu_ratio", judged=False),
        change("hbm_peak_bytes", exact=_hbm_is_exact(stage_a) and _hbm_is_exact(stage_b)),
    )
    known = [other for other in others if not _says_nothing(other)]
    name, component, *_ = key[-1]
    changes = (seconds, *known)
    counts = max(_share(seconds.a, total.a), _share(seconds.b, total.b)) >= SAME_RATIO
    unchanged = ended and not any(_is_changed(each, changes, counts=counts) for each in changes)
    return StageComparison(name, component, label, changes, unchanged)


def _says_nothing(change: Change) -> bool:
    """Whether neither run has the figure; of steps that were skipped, whether there are none."""
    nothing = (None, 0.0) if change.name == "cached_steps" else (None,)
    return change.a in nothing and change.b in nothing


def _is_changed(change: Change, beside: Sequence[Change], *, counts: bool) -> bool:
    """`counts`: the stage takes long enough for its times to matter."""
    if change.name == "mfu_ratio" and any(other.name == "step_seconds_median" for other in beside):
        return False  # it follows from that
    if change.name != "hbm_peak_bytes" and not counts:
        return False
    if change.verdict is None:
        return change.a != change.b and (change.ratio is None or abs(change.ratio) >= SAME_RATIO)
    return change.verdict not in (Verdict.SAME, Verdict.NOISE)


def _change(
    name: Figure,
    baseline: Sequence[float | None],
    b: float | None,
    *,
    judged: bool = True,
    exact: bool = False,
) -> Change:
    """The change of a figure that each run has once. `exact`: it would be the same each time."""
    a = baseline[0]
    if a is None or b is None or a == 0:
        return Change(name, a, b, None, Verdict.SAME if a is not None and a == b else None)
    ratio = b / a - 1
    if not judged:
        return Change(name, a, b, ratio, None)
    known = [value for value in baseline if value is not None]
    verdict = judge(ratio, b, known)
    if exact and verdict is not Verdict.SAME:
        verdict = _direction(ratio)
    return Change(name, a, b, ratio, verdict)


def judge(ratio: float, value: float, known: Sequence[float]) -> Verdict:
    """The verdict on a figure that a run has once, larger by `ratio`, where alike runs had `known`."""
    if abs(ratio) < SAME_RATIO:
        return Verdict.SAME
    if len(known) < RUNS_TO_JUDGE_BY:
        return Verdict.UNPROVEN
    return Verdict.NOISE if min(known) <= value <= max(known) else _direction(ratio)


def _judge_by_steps(
    change: Change,
    quantile: float,
    stage_a: StageReport | None,
    stage_b: StageReport | None,
    *,
    cached: bool = False,
) -> Change:
    """A difference of a statistic of the steps is none where the two runs' intervals overlap."""
    if change.verdict in (None, Verdict.SAME, Verdict.NOISE) or change.ratio is None:
        return change
    interval_a, interval_b = (_interval(stage, quantile, cached=cached) for stage in (stage_a, stage_b))
    if interval_a is None or interval_b is None:
        return change
    overlap = interval_a[0] <= interval_b[1] and interval_b[0] <= interval_a[1]
    return dataclasses.replace(change, verdict=Verdict.NOISE if overlap else _direction(change.ratio))


def _interval(stage: StageReport | None, quantile: float, *, cached: bool) -> tuple[float, float] | None:
    """Where the quantile of the steps lies, with 95% confidence and for any distribution; None for too few.

    By order statistics, with the normal approximation to the binomial (Conover, Practical Nonparametric
    Statistics, 3rd edition, 3.2).
    """
    kinds = seconds_by_kind(stage.steps) if stage else {}
    seconds = kinds.get(CACHED, []) if cached else full_seconds(kinds)
    middle = len(seconds) * quantile
    reach = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2) * math.sqrt(middle * (1 - quantile))
    low, high = math.floor(middle - reach), math.ceil(middle + reach) + 1
    return (seconds[low - 1], seconds[high - 1]) if low >= 1 and high <= len(seconds) else None


def _direction(ratio: float) -> Verdict:
    """The verdict on a change: of every figure that is judged, less is better."""
    return Verdict.WORSE if ratio > 0 else Verdict.BETTER


def _figures(stage: StageReport | None) -> Mapping[Figure, float | None]:
    """None where the run does not know a figure; no figures of a stage that it does not have."""
    if stage is None:
        return {}
    steps, cached = stage.step_seconds, (stage.step_seconds_by_kind or {}).get(CACHED)
    return {
        "seconds": stage.seconds,
        "compile_seconds": stage.compile_seconds if stage.compile_cache else None,
        "step_seconds_median": steps.median if steps else None,
        "step_seconds_p95": steps.p95 if steps else None,
        "cached_step_seconds_median": cached.median if cached else None,
        "cached_steps": float(count_cached(stage)),
        "mfu_ratio": stage.mfu.ratio if stage.mfu else None,
        "hbm_peak_bytes": max((usage.peak_bytes for usage in stage.hbm), default=None),
    }


def _hbm_is_exact(stage: StageReport | None) -> bool:
    return stage is not None and all(usage.method in _EXACT for usage in stage.hbm)
