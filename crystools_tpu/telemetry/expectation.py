"""What is expected of a run's stages: by runs that were alike, else by its own plan and work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, NamedTuple

from crystools_tpu.telemetry.comparison import is_alike
from crystools_tpu.telemetry.events import (
    CACHED,
    FULL,
    CompileCache,
    Forecast,
    RunReport,
    StageName,
    StageReport,
    StageWork,
    Status,
)
from crystools_tpu.telemetry.stage_keys import Key, StageKeys
from crystools_tpu.telemetry.stage_tree import top_level
from crystools_tpu.telemetry.step_times import count_cached, seconds_of_steps, step_medians

MOST_ALIKE: Final = 5
"""How many alike runs an expectation is made of, the newest: what they took is what the next will take."""

_LEAST_KEPT_SECONDS: Final = 1.0
"""jax puts no program into its cache that compiles more quickly."""


class Decoder(NamedTuple):
    """A VAE's decoder beside the denoiser: its FLOPs a second for one of that, and the same of compiling.

    `found` is of compiling where the run has found another program in the cache, `missing` where the cache is
    known not to have the decoder's.
    """

    rate: float
    compiling: float
    found: float
    missing: float


_DECODERS: Final[Mapping[str, Decoder]] = {
    # The tiny models at 160 x 288 on two cores: CogVideoX 0.43, Wan2.1 0.47 to 0.56 (and 0.75 in README.md);
    # compiling 3 to 7 times as long, and 0.7 to 0.9 times where the cache has it. Of programs as small as
    # their denoisers' it keeps none, but of the text encoder's.
    "cpu": Decoder(0.6, 3.5, 0.8, 7.0),
    # The compiler's own estimates of the full-size models, and its time (benchmarks/results/plans.json): 0.09
    # to 0.25, and 0.6 to 1.2.
    "tpu": Decoder(0.12, 0.8, 0.8, 0.8),
}
"""By platform, for the time to go of a run of which nothing is known but its own denoising.

Elsewhere the time of a decoder that was neither run before nor planned is not known.
"""


class Compiles(NamedTuple):
    """Seconds of compiling where the persistent cache has what was compiled before, and where it does not."""

    found: float
    missing: float

    def as_in(self, own_seconds: float, before: Compiles) -> float:
        """What it is in a run that so far has needed `own_seconds` where this was what others needed."""
        if own_seconds > before.found:
            share = (own_seconds - before.found) / max(before.missing - before.found, 1.0)
            return self.found + min(1.0, share) * (self.missing - self.found)
        return self.found * own_seconds / before.found if before.found > 0 else self.found


class Skipped(NamedTuple):
    """How many steps of a stage were full and how many a step cache skipped, and what one of each took."""

    full: int
    cached: int
    full_seconds: float
    cached_seconds: float


@dataclass(frozen=True, slots=True)
class Part:
    """A stage as it is expected.

    `seconds` are without compiles, None where they follow from `work`: FLOPs as a denoiser does them, which
    `steps` share, None where that is not known either. `compiles`, with those of its parts, are None where
    nobody has seen it compile: then it is the denoiser's, so many times. `skipped` is of another run,
    where a step cache skips steps as the device decides: the first steps say nothing of how many.
    """

    parent: Key | None
    seconds: float | None
    compiles: Compiles | None = None
    work: float | None = None
    steps: int = 1
    compiling: float = 1.0
    found: float = 1.0
    missing: float = 1.0
    skipped: Skipped | None = None

    @property
    def whole_seconds(self) -> float | None:
        """With the compiles that the persistent cache has, where anybody has seen it compile."""
        return (
            None if self.seconds is None else self.seconds + (self.compiles.found if self.compiles else 0.0)
        )


@dataclass(frozen=True, slots=True)
class Expectation:
    """The stages that are expected of a run, in their order.

    `share` is how long they take together of the sum of what they take each: asynchronous nodes overlap.
    """

    parts: Mapping[Key, Part]
    by_history: bool
    share: float = 1.0

    @property
    def seconds(self) -> float | None:
        """What all of it is to take, before it has begun; None where that is not known of a stage."""
        known = [part.whole_seconds for part in self.parts.values() if part.parent is None]
        return None if None in known else self.share * sum(each for each in known if each is not None)


def is_like(run: RunReport, other: RunReport) -> bool:
    """Whether `other`, which succeeded, did all that `run` is to do: the same work on the same devices.

    Of a workflow the graph is compared, for its other parameters are not known before its nodes run. It may
    have executed more: the nodes that are cached now.
    """
    workflow = run.params.get("workflow")
    if workflow is None:
        return is_alike(run, other)
    device, other_device = run.device, other.device
    same_device = None in (device, other_device) or (
        (device.kind, device.count) == (other_device.kind, other_device.count)  # type: ignore[union-attr]
    )
    return (
        other.status is Status.SUCCEEDED
        and (other.pipeline, other.params.get("workflow")) == (run.pipeline, workflow)
        and same_device
        and _cached(other) <= _cached(run)
    )


def newest_alike(run: RunReport, others: Iterable[RunReport]) -> tuple[RunReport, ...]:
    """The newest of the `others` that are like the run, newest first."""
    known = {other.run_id: other for other in others if other.run_id != run.run_id and is_like(run, other)}
    return tuple(sorted(known.values(), key=lambda other: -other.started_unix_seconds)[:MOST_ALIKE])


def expectation(run: RunReport, alike: Sequence[RunReport]) -> Expectation | None:
    """What is expected of the run; None where nobody knows which stages it is to have."""
    if alike:
        return _by_history(run, alike)
    platform = "" if run.device is None else run.device.platform
    return expectation_of_work(run.work, run.forecast, _DECODERS.get(platform))


def _by_history(run: RunReport, alike: Sequence[RunReport]) -> Expectation:
    """The stages of the newest alike run, each as long as in the median of all.

    A download is left out: what one run has brought is there for the next.
    """
    cached = _cached(run)
    runs = [_figures(each, cached) for each in alike]
    skipped = _skipped(alike[0])
    parts = {}
    for key in runs[0]:
        figures = [figures[key] for figures in runs if key in figures]
        seconds, compiles = zip(*figures, strict=True)
        found, missing = zip(*compiles, strict=True)
        usual = Compiles(median(found), max(missing))
        parts[key] = Part(key[0], median(seconds), usual, skipped=skipped.get(key))
    return Expectation(parts, by_history=True, share=median(map(_share, alike)))


def _figures(run: RunReport, cached: frozenset[str]) -> dict[Key, tuple[float, Compiles]]:
    """Of each stage its seconds without compile, and its compiles with those of its parts."""
    keys = StageKeys()
    compiles: dict[Key, Compiles] = {}
    for stage in run.stages:
        key = keys.add(stage)
        own = compiles[key] = Compiles(stage.compile_seconds - put_into_cache(stage), stage.compile_seconds)
        while (key := key[0]) is not None:
            compiles[key] = Compiles(compiles[key].found + own.found, compiles[key].missing + own.missing)
    return {
        key: (max(0.0, stage.seconds - compiles[key].missing), compiles[key])
        for key, stage in zip(keys.keys, run.stages, strict=True)
        if stage.seconds is not None
        and stage.name is not StageName.DOWNLOAD
        and (stage.node is None or stage.node.id not in cached)
    }


def _skipped(run: RunReport) -> Mapping[Key, Skipped]:
    """Of the stages in which a step cache skipped steps without its being planned."""
    keys = StageKeys()
    found = {}
    for stage in run.stages:
        key, cached, seconds = keys.add(stage), count_cached(stage), step_medians(stage)
        if stage.steps_by_kind is None and cached and {FULL, CACHED} <= seconds.keys():
            found[key] = Skipped(len(stage.steps) - cached, cached, seconds[FULL], seconds[CACHED])
    return found


def put_into_cache(stage: StageReport) -> float:
    """The seconds of its compiles that are in the cache since."""
    kept = [
        compiled.seconds
        for compiled in stage.compiles
        if compiled.cache is CompileCache.MISS and compiled.seconds >= _LEAST_KEPT_SECONDS
    ]
    return min(sum(kept), stage.compile_seconds)


def _share(run: RunReport) -> float:
    together = sum(stage.seconds or 0.0 for stage in top_level(run.stages))
    return min(1.0, run.total_seconds / together) if run.total_seconds and together else 1.0


def _cached(run: RunReport) -> frozenset[str]:
    return frozenset(node.id for node in run.cached_nodes)


def expectation_of_work(
    work: Sequence[StageWork], forecast: Forecast | None, decoder: Decoder | None = None
) -> Expectation | None:
    """The stages of a run that said it would have them, by the forecast's seconds or by their FLOPs."""
    planned = {} if forecast is None else {(s.name, s.component): s.step_seconds for s in forecast.stages}
    counts: Counter[Any] = Counter()
    parts = {}
    for stage in work:
        of = (stage.name, stage.component)
        of_decoder = decoder if stage.name is StageName.VAE_DECODE else None
        step_seconds = planned.get(of)
        parts[None, *of, None, counts[of]] = Part(
            parent=None,
            seconds=None if step_seconds is None else step_seconds * stage.steps,
            work=_work(stage, decoder),
            steps=stage.steps,
            compiling=of_decoder.compiling if of_decoder else 1.0,
            found=of_decoder.found if of_decoder else 1.0,
            missing=of_decoder.missing if of_decoder else 1.0,
        )
        counts[of] += 1
    return Expectation(parts, by_history=False) if parts else None


def scaled_expectation(work: Sequence[StageWork], other: RunReport, pipeline: str) -> Expectation | None:
    """What is expected of a run with this work, each stage at the rate of the same one in `other`.

    Those are stages of `pipeline`, be it a part of a workflow. None where a stage has no such rate. Neither
    loads nor compiles are in it.
    """
    seconds: dict[Any, float] = {}
    flops: dict[Any, float] = {}
    for stage in other.stages:
        own = _seconds_without_compile(stage)
        if (stage.pipeline or other.pipeline) == pipeline and stage.flops and own is not None:
            of = (stage.name, stage.component)
            seconds[of] = seconds.get(of, 0.0) + own
            flops[of] = flops.get(of, 0.0) + stage.flops
    parts: dict[Key, Part] = {}
    for each in work:
        of = (each.name, each.component)
        if not seconds.get(of):
            return None
        key = (None, *of, None, sum(known[1:3] == of for known in parts))
        parts[key] = Part(parent=None, seconds=each.flops / flops[of] * seconds[of], steps=each.steps)
    return Expectation(parts, by_history=False) if parts else None


def _seconds_without_compile(stage: StageReport) -> float | None:
    """What its work took the devices, of a stage that came to its end."""
    if stage.seconds is None or stage.status is not Status.SUCCEEDED:
        return None
    if (seconds := seconds_of_steps(stage)) is not None:
        return seconds
    return max(0.0, stage.seconds - stage.compile_seconds)


def _work(stage: StageWork, decoder: Decoder | None) -> float | None:
    if stage.name is StageName.DENOISE:
        return stage.flops
    return stage.flops / decoder.rate if decoder and stage.name is StageName.VAE_DECODE else None
