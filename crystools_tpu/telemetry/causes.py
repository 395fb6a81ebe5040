"""What made a run slower or faster than earlier ones, and what else should be known of it.

A cause is what the reports prove: a part of the run that took other seconds than usual, with what its stage
says of itself. Where that is no reason, it is where the seconds went, and `is_reason` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Final

from crystools_tpu.telemetry.amounts import amount_text, duration_text, share_text
from crystools_tpu.telemetry.compile_words import joined_reasons
from crystools_tpu.telemetry.events import (
    CACHED,
    FULL,
    MESH,
    CompileCache,
    RunReport,
    StageName,
    StageReport,
)
from crystools_tpu.telemetry.evictions import evictions_of
from crystools_tpu.telemetry.expectation import put_into_cache
from crystools_tpu.telemetry.labels import short_id, size_label, stage_title
from crystools_tpu.telemetry.peers import is_same_work
from crystools_tpu.telemetry.spent import Change, Spent, changes_of, recompiled_steps
from crystools_tpu.telemetry.step_times import count_cached, step_medians
from crystools_tpu.telemetry.words import nonfinite_note

_LEAST_SHARE: Final = 0.01
"""What changed by less of the run is not spoken of."""

_WORTH_SAYING_SHARE: Final = 0.03
"""What a run loses as its alike ones do is spoken of from here on."""

_HOST_BOUND_SHARE: Final = 0.5
_MOST_OF_IT: Final = 0.5
_FULL_SHARE: Final = 0.95
_BETTER_SHARE: Final = 0.03


class Cause(StrEnum):
    """What a finding is about."""

    NAN = "nan"
    RECOMPILE = "recompile"
    COLD_CACHE = "cold_cache"
    """Compiles that are in the cache since."""
    CACHE_MISS = "cache_miss"
    CACHE_OFF = "cache_off"
    CACHE_HIT = "cache_hit"
    HOST = "host"
    MESH = "mesh"
    EVICTED = "evicted"
    NEW_PROCESS = "new_process"
    DOWNLOAD = "download"
    CACHED_NODES = "cached_nodes"
    COMPILE = "compile"
    LOAD = "load"
    STEPS = "steps"
    STEP_CACHE = "step_cache"
    """Its step cache skipped another number of steps."""
    STAGE = "stage"
    MEMORY = "memory"
    BETTER_MESH = "better_mesh"
    ENDING = "ending"


_WHERE: Final = frozenset({Cause.COMPILE, Cause.LOAD, Cause.STEPS, Cause.STAGE})
_ASIDE: Final = frozenset({Cause.NAN, Cause.MEMORY, Cause.BETTER_MESH, Cause.ENDING})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is to be known of a run, with its figures, and what to do about it where that is known.

    `seconds` is how much longer than in the runs it is compared with that took, negative for less; None where
    there are none, where it is the same in them, or where it is no matter of seconds.
    """

    cause: Cause
    text: str
    seconds: float | None
    remedy: str | None = None

    @property
    def is_reason(self) -> bool:
        """Whether it says why, and not only where the seconds went."""
        return self.cause not in _WHERE and self.cause not in _ASIDE


def findings_of(
    run: RunReport, peers: Sequence[RunReport], earlier: Sequence[RunReport]
) -> tuple[Finding, ...]:
    """What is to be said of a run that succeeded, what explains most first. `earlier` are of any kind."""
    found = list(_causes(run, peers, earlier))
    found.sort(key=lambda finding: -abs(finding.seconds or 0.0))
    causes = {finding.cause for finding in found}
    found += [again for again in _in_any_case(run) if again.cause not in causes]
    if Cause.MESH not in causes:
        found += _better_mesh(run, earlier)
    return (*_not_finite(run, peers), *found, *_nearly_full(run))


def once_only_seconds(run: RunReport) -> float:
    """What the next run of the same does not need: compiles that are in the cache now, and downloads."""
    downloads = (stage.seconds or 0.0 for stage in run.stages if stage.name is StageName.DOWNLOAD)
    return sum(map(put_into_cache, run.stages)) + sum(downloads)


def step_seconds(run: RunReport) -> float | None:
    """What a denoising step takes, as the mean of the medians of its transformers; None where it has none."""
    timed = [
        (stage.step_seconds.median, len(stage.steps))
        for stage in run.stages
        if stage.name is StageName.DENOISE and stage.step_seconds is not None
    ]
    count = sum(steps for _, steps in timed)
    return sum(seconds * steps for seconds, steps in timed) / count if count else None


def _causes(run: RunReport, peers: Sequence[RunReport], earlier: Sequence[RunReport]) -> Iterator[Finding]:
    least = _LEAST_SHARE * (median(peer.total_seconds or 0.0 for peer in peers) if peers else _total(run))
    changed = [change for change in changes_of(run, peers) if abs(change.seconds) >= least]
    changed = [change for change in changed if change.beyond_spread]
    nodes, changed = _by_cached_nodes(run, peers, changed)
    yield from nodes
    yield from _compiles([change for change in changed if change.part.on is Spent.COMPILE], peers)
    yield from _loads([change for change in changed if _is_load(change)], run, peers, earlier)
    for change in changed:
        stage = change.part.stage
        if change.part.on is Spent.RECOMPILE and stage is not None:
            yield _recompiled(stage, change)
        elif change.part.on is Spent.HOST and stage is not None:
            yield _host(stage, change)
        elif stage is not None and stage.name is StageName.DOWNLOAD:
            yield _downloaded(stage, change)
        elif change.part.on is Spent.STEPS and stage is not None and peers:
            yield _steps(stage, change, run, peers)
        elif change.part.on is Spent.REST and not _is_load(change) and peers:
            yield _longer(stage, change)


def _in_any_case(run: RunReport) -> Iterator[Finding]:
    """What costs seconds in every such run, where it is worth saying."""
    least = _WORTH_SAYING_SHARE * _total(run)
    for change in changes_of(run, ()):
        stage = change.part.stage
        if stage is None or change.seconds < least:
            continue
        if change.part.on is Spent.RECOMPILE:
            yield _known(_recompiled(stage, change))
        elif change.part.on is Spent.HOST and _host_share(stage) >= _HOST_BOUND_SHARE:
            yield _known(_host(stage, change))
        elif change.part.on is Spent.COMPILE and stage.compile_cache is CompileCache.OFF:
            yield from map(_known, _compiles([change], ()))


def _known(finding: Finding) -> Finding:
    return Finding(finding.cause, finding.text, None, finding.remedy)


def _recompiled(stage: StageReport, change: Change) -> Finding:
    steps = recompiled_steps(stage)
    if change.seconds < 0:
        was = len(recompiled_steps(change.usual_stage)) if change.usual_stage else 0
        now = len(steps) if change.part.seconds else 0  # without any of its own the stage is the usual one
        text = f"{now or 'no'} recompiles in {stage_title(stage)} instead of {was}"
        return Finding(Cause.RECOMPILE, f"{text} ({amount_text(change.seconds)} less)", change.seconds)
    numbers = [str(number) for number, _ in steps[:3]] + ["..."] * (len(steps) > 3)
    at = f"step {numbers[0]}" if len(steps) == 1 else f"steps {', '.join(numbers)}"
    why = joined_reasons(stage.recompile_reasons)
    said = f"recompiled at {at} of {stage_title(stage)} ({amount_text(change.part.seconds)})"
    return Finding(Cause.RECOMPILE, f"{said}, {why.text}" if why.text else said, change.seconds, why.remedy)


def _compiles(changes: Sequence[Change], peers: Sequence[RunReport]) -> Iterator[Finding]:
    """Of all stages together what the compile cache explains; the rest of each stage on its own."""
    cold, off, hit = [], [], []
    for change in changes:
        stage, usual = change.part.stage, change.usual_stage
        if stage is None:
            continue
        own_cache = stage.compile_cache if change.part.seconds else None
        usual_cache = usual.compile_cache if usual is not None else None
        if change.seconds > 0 and own_cache is CompileCache.MISS and usual_cache is not CompileCache.MISS:
            cold.append(change)
        elif change.seconds > 0 and own_cache is CompileCache.OFF and usual_cache is not CompileCache.OFF:
            off.append(change)
        elif change.seconds < 0 and usual_cache not in (None, CompileCache.HIT) and own_cache != usual_cache:
            hit.append(change)
        elif peers:
            took, usually = duration_text(change.part.seconds), duration_text(change.usual_seconds)
            text = f"compiling {stage_title(stage)} took {took} instead of {usually}"
            yield Finding(Cause.COMPILE, text, change.seconds)
    if cold:
        kept = sum(put_into_cache(change.part.stage) for change in cold if change.part.stage)
        compiled = sum(change.part.seconds for change in cold)
        said = f"compiled {amount_text(compiled)}, which"
        if kept > compiled / 2:
            yield Finding(Cause.COLD_CACHE, f"{said} is in the cache now", _sum(cold))
        else:
            yield Finding(Cause.CACHE_MISS, f"{said} the cache did not have", _sum(cold))
    if off:
        text = f"compiled {amount_text(sum(change.part.seconds for change in off))} with the cache off"
        remedy = "name a folder in JAX_COMPILATION_CACHE_DIR"
        yield Finding(Cause.CACHE_OFF, text, _sum(off), remedy)
    if hit:
        text = f"its programs were compiled already: {amount_text(_sum(hit))} less of compiling"
        yield Finding(Cause.CACHE_HIT, text, _sum(hit))


def _host(stage: StageReport, change: Change) -> Finding:
    title, seconds = stage_title(stage), change.part.seconds
    if change.seconds < 0:
        text = f"{title} waited {amount_text(change.seconds)} less for the host"
        return Finding(Cause.HOST, text, change.seconds)
    waited = (
        f"the chips waited {amount_text(seconds)} for the host, {share_text(_host_share(stage))} of its steps"
    )
    bound = "host-bound" if _host_share(stage) >= _HOST_BOUND_SHARE else "held up"
    remedy = "take out of the loop over the steps what is not needed there, and see what else uses the CPUs"
    return Finding(Cause.HOST, f"{title} was {bound}: {waited}", change.seconds, remedy)


def _host_share(stage: StageReport) -> float:
    timed = sum(step.seconds for step in stage.steps if not step.compiled)
    return (stage.host_wait_seconds or 0.0) / timed if timed else 0.0


def _downloaded(stage: StageReport, change: Change) -> Finding:
    size = "" if stage.bytes_done is None else f" {size_label(stage.bytes_done)}"
    took = amount_text(change.part.seconds)
    text = f"downloaded{size} in {took}, which is here now" if change.seconds > 0 else "nothing to download"
    return Finding(Cause.DOWNLOAD, text, change.seconds)


def _steps(stage: StageReport, change: Change, run: RunReport, peers: Sequence[RunReport]) -> Finding:
    usual, title = change.usual_stage, stage_title(stage)
    if usual is not None and _is_by_skips(stage, usual, change.seconds):
        own, usually = count_cached(stage), count_cached(usual)
        text = f"{title} skipped {own} of its {len(stage.steps)} steps instead of {usually}"
        return Finding(Cause.STEP_CACHE, text, change.seconds)
    own_step = stage.step_seconds.median if stage.step_seconds else None
    usual_step = usual.step_seconds.median if usual is not None and usual.step_seconds else None
    if own_step is None or usual_step is None or duration_text(own_step) == duration_text(usual_step):
        text = f"the steps of {title} took {amount_text(change.seconds)} {_more(change)}"
        return Finding(Cause.STEPS, text, change.seconds)
    pace = f"{title} took {duration_text(own_step)} a step instead of {duration_text(usual_step)}"
    mesh, usual_mesh = run.params.get(MESH), peers[0].params.get(MESH)
    if mesh is None or usual_mesh is None or mesh == usual_mesh:
        return Finding(Cause.STEPS, pace, change.seconds)
    remedy = f"go back to --mesh {usual_mesh}" if change.seconds > 0 else None
    return Finding(Cause.MESH, f"mesh {mesh} instead of {usual_mesh}, {pace}", change.seconds, remedy)


def _is_by_skips(stage: StageReport, usual: StageReport, seconds: float) -> bool:
    """Whether most of so many seconds more come of steps that a step cache skipped in one of them alone."""
    medians = {**step_medians(usual), **step_medians(stage)}
    if not {FULL, CACHED} <= medians.keys() or len(stage.steps) != len(usual.steps):
        return False
    more = (count_cached(usual) - count_cached(stage)) * (medians[FULL] - medians[CACHED])
    return more * seconds > 0 and abs(more) >= _MOST_OF_IT * abs(seconds)


def _longer(stage: StageReport | None, change: Change) -> Finding:
    where = "between its stages it" if stage is None else stage_title(stage)
    return Finding(Cause.STAGE, f"{where} took {amount_text(change.seconds)} {_more(change)}", change.seconds)


def _more(change: Change) -> str:
    return "longer" if change.seconds > 0 else "less"


def _is_load(change: Change) -> bool:
    stage = change.part.stage
    return stage is not None and stage.name is StageName.LOAD and change.part.on is Spent.REST


def _loads(
    changes: Sequence[Change], run: RunReport, peers: Sequence[RunReport], earlier: Sequence[RunReport]
) -> Iterator[Finding]:
    """Weights that others had in memory already: because they had left it, or the process is a new one."""
    new_process = []
    for change in changes if peers else ():
        stage = change.part.stage
        assert stage is not None
        again = change.seconds > 0 and change.usual_seconds < change.part.seconds / 2
        evicted = _evicted(stage, run, peers, earlier) if again else None
        if evicted is not None:
            text = f"{stage.component} was loaded again ({amount_text(change.part.seconds)}): {evicted}"
            remedy = "it stays in memory as long as nothing else needs the room"
            yield Finding(Cause.EVICTED, text, change.seconds, remedy)
        elif again and _is_first_of_its_process(run, peers):
            new_process.append(change)
        else:
            took, usually = duration_text(change.part.seconds), duration_text(change.usual_seconds)
            text = f"{stage_title(stage)} took {took} instead of {usually}"
            yield Finding(Cause.LOAD, text, change.seconds)
    if new_process:
        what = ", ".join(
            dict.fromkeys(str(each.part.stage and each.part.stage.component) for each in new_process)
        )
        took = amount_text(sum(change.part.seconds for change in new_process))
        text = f"the first run of its process loaded {what} ({took})"
        yield Finding(Cause.NEW_PROCESS, text, _sum(new_process))


def _evicted(
    stage: StageReport, run: RunReport, peers: Sequence[RunReport], earlier: Sequence[RunReport]
) -> str | None:
    """Which run had evicted the component since the last alike one, as it warned; None where none did."""
    since = peers[0].started_unix_seconds
    for other in (run, *earlier):
        if other.started_unix_seconds < since or not _in_one_process(run, other):
            continue
        for eviction in evictions_of(other):
            if eviction.component == stage.component and run.model_id in (None, eviction.model):
                who = "this run" if other is run else f"run {short_id(other.run_id)} ({other.pipeline})"
                return f"{who} had evicted its {eviction.size} for another that needed the room"
    return None


def _in_one_process(run: RunReport, other: RunReport) -> bool:
    return run.process is None or other.process is None or run.process == other.process


def _is_first_of_its_process(run: RunReport, peers: Sequence[RunReport]) -> bool:
    return run.process is not None and all(
        peer.process is not None and peer.process.pid != run.process.pid for peer in peers
    )


def _by_cached_nodes(
    run: RunReport, peers: Sequence[RunReport], changes: Sequence[Change]
) -> tuple[list[Finding], list[Change]]:
    """Nodes that were executed here and taken from the cache there, or the other way round; and the rest."""
    own = {node.id for node in run.cached_nodes}
    theirs = [{node.id for node in peer.cached_nodes} for peer in peers]
    in_all = set.intersection(*theirs) if theirs else set()
    groups: dict[bool, list[Change]] = {True: [], False: []}
    rest = []
    for change in changes:
        node = change.part.stage.node if change.part.stage is not None else None
        if node is not None and node.id in in_all - own and change.seconds > 0:
            groups[True].append(change)
        elif node is not None and node.id in own and not any(node.id in ids for ids in theirs):
            groups[False].append(change)
        else:
            rest.append(change)
    found = []
    for executed, group in groups.items():
        nodes = dict.fromkeys(stage_title(change.part.stage) for change in group if change.part.stage)
        if nodes:
            what = f"{', '.join(list(nodes)[:3])}{', ...' if len(nodes) > 3 else ''}"
            said = "was executed, which was cached before" if executed else "came from the cache"
            text = f"{what} {said} ({amount_text(_sum(group))} {'more' if executed else 'less'})"
            found.append(Finding(Cause.CACHED_NODES, text, _sum(group)))
    return found, rest


def _not_finite(run: RunReport, peers: Sequence[RunReport]) -> Iterator[Finding]:
    note = nonfinite_note(run)
    if note is None:
        return
    others = "" if not peers or any(map(nonfinite_note, peers)) else ", of the runs before it none"
    remedy = "the same seed once more tells whether it comes of what was asked or of the machine"
    yield Finding(Cause.NAN, f"{note} on{others}", None, remedy)


def _nearly_full(run: RunReport) -> Iterator[Finding]:
    uses = [
        (use.peak_bytes / use.limit_bytes, stage, use)
        for stage in run.stages
        for use in stage.hbm
        if use.limit_bytes
    ]
    if not uses:
        return
    share, stage, use = max(uses, key=lambda each: each[0])
    if share >= _FULL_SHARE and use.limit_bytes:
        of = f"{size_label(use.peak_bytes)} of {size_label(use.limit_bytes)} on {use.device}"
        text = f"memory was nearly full in {stage_title(stage)}: {of} ({share_text(share)})"
        yield Finding(Cause.MEMORY, text, None, "anything larger will not fit")


def _better_mesh(run: RunReport, earlier: Iterable[RunReport]) -> Iterator[Finding]:
    """A mesh with which the same work was done faster."""
    own, mesh = step_seconds(run), run.params.get(MESH)
    if own is None or mesh is None:
        return
    others = [
        (seconds, other)
        for other in earlier
        if other.params.get(MESH) not in (None, mesh) and is_same_work(run, other)
        if (seconds := step_seconds(other)) is not None
    ]
    if others and (best := min(others, key=lambda each: each[0]))[0] < own * (1 - _BETTER_SHARE):
        seconds, other = best
        took = f"{duration_text(seconds)} a step (run {short_id(other.run_id)})"
        text = f"mesh {other.params[MESH]} took {took}, this one {duration_text(own)}"
        yield Finding(Cause.BETTER_MESH, text, None, f"--mesh {other.params[MESH]}")


def _sum(changes: Iterable[Change]) -> float:
    return sum(change.seconds for change in changes)


def _total(run: RunReport) -> float:
    return run.total_seconds or 0.0
