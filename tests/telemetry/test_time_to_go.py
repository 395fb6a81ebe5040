"""What a whole run has still to go, of runs whose steps take what the test says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from crystools_tpu.telemetry import (
    CompileCache,
    CompileRecord,
    Device,
    Fold,
    Forecast,
    Node,
    RunChanged,
    RunFinished,
    RunReport,
    RunStarted,
    StageFinished,
    StageForecast,
    StageName,
    StageReport,
    StageStarted,
    StageWork,
    Status,
    StepFinished,
    StepRecord,
    newest_alike,
    with_progress,
)
from crystools_tpu.telemetry.step_times import step_statistics
from crystools_tpu.telemetry.time_to_go import AlikeOf, nothing_alike

BEGAN = 1000.0
CPU = Device("cpu", "cpu", 1, 1.0, ("cpu0",), None, None, None, None)
TPU = dataclasses.replace(CPU, platform="tpu", kind="TPU v6 lite")
POINTS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Lasts:
    """A stage that takes so long; where it has steps, they and two compiles before the first are all of it.

    `inside` are stages within it, one after another from its beginning on.
    """

    name: str
    component: str | None = None
    seconds: float = 0.0
    steps: tuple[float, ...] = ()
    compiles: float = 0.0
    cache: CompileCache = CompileCache.MISS
    node: str | None = None
    inside: tuple[Lasts, ...] = ()

    @property
    def whole(self) -> float:
        own = self.seconds or self.compiles + sum(self.steps)
        return own + sum(part.whole for part in self.inside)


def node(name: str, seconds: float, *inside: Lasts, steps: tuple[float, ...] = ()) -> Lasts:
    return Lasts("node", f"Class{name}", seconds, steps, node=name, inside=inside)


# As the demo's stages are: the first step of each has the compile.
DEMO = (
    Lasts("load", "text_encoder", 0.4),
    Lasts("text_encode", steps=(0.08,), compiles=0.72),
    Lasts("load", "transformer", 0.6),
    Lasts("denoise", "transformer", steps=(0.9,) * 20, compiles=1.2),
    Lasts("load", "vae", 0.01),
    Lasts("vae_decode", steps=(0.77,) * 9, compiles=7.5),
    Lasts("save", None, 0.27),
)
WARM = tuple(
    dataclasses.replace(stage, compiles=stage.compiles * 0.1, cache=CompileCache.HIT) for stage in DEMO
)
WORK = (
    StageWork(StageName.TEXT_ENCODE, None, 1, 0.77e9),
    StageWork(StageName.DENOISE, "transformer", 20, 376.4e9),
    StageWork(StageName.VAE_DECODE, None, 9, 65.3e9),
)


def slower(stages: Sequence[Lasts], factor: float) -> tuple[Lasts, ...]:
    return tuple(
        dataclasses.replace(
            stage,
            seconds=stage.seconds * factor,
            steps=tuple(step * factor for step in stage.steps),
            inside=slower(stage.inside, factor),
        )
        for stage in stages
    )


def total(stages: Sequence[Lasts]) -> float:
    return sum(stage.whole for stage in stages)


def run(
    stages: Sequence[Lasts], until: float | None = None, *, run_id: str = "now", **facts: Any
) -> RunReport:
    """The report of a run of these stages as it stands after so many seconds; to its end by default."""
    now = total(stages) if until is None else until
    told: list[StageReport] = []
    _tell(stages, 0.0, now, None, told)
    ended = until is None
    report = RunReport(
        run_id=run_id,
        pipeline="test",
        model_id="model",
        params={"steps": 20},
        status=Status.SUCCEEDED if ended else Status.RUNNING,
        error=None,
        started_at="2026-11-27T00:00:00.000Z",
        started_unix_seconds=BEGAN,
        total_seconds=now if ended else None,
        output=None,
        device=CPU,
        stages=tuple(told),
    )
    return dataclasses.replace(report, **facts)


def _tell(
    stages: Sequence[Lasts], begins: float, now: float, parent: int | None, told: list[StageReport]
) -> None:
    for stage in stages:
        if begins > now:
            return
        ended = begins + stage.whole <= now
        records = _steps(stage, begins, now)
        programs = min(2, int(2 * (now - begins) / stage.compiles)) if stage.compiles else 0
        report = StageReport(
            name=StageName(stage.name),
            component=stage.component,
            status=Status.SUCCEEDED if ended else Status.RUNNING,
            error=None,
            started_unix_seconds=BEGAN + begins,
            seconds=stage.whole if ended else None,
            compile_seconds=stage.compiles * programs / 2,
            compile_cache=stage.cache if programs else None,
            compiles=(CompileRecord("f", BEGAN, 0.45 * stage.compiles, stage.cache, None),) * programs,
            recompiles=0,
            recompile_reasons=(),
            steps_total=len(stage.steps) or None,
            steps=records,
            step_seconds=step_statistics(records),
            first_nonfinite_step=None,
            flops=None,
            flops_method=None,
            mfu=None,
            mbu=None,
            bound=None,
            hbm=(),
            parent=parent,
            node=None if stage.node is None else Node(stage.node, "Class" + stage.node, None),
        )
        position = len(told)
        told.append(report)
        _tell(stage.inside, begins, now, position, told)
        begins += stage.whole


def _steps(stage: Lasts, begins: float, now: float) -> tuple[StepRecord, ...]:
    records, at = [], begins
    for number, seconds in enumerate(stage.steps):
        compiled = number == 0 and stage.compiles > 0
        seconds += stage.compiles if compiled else 0.0
        at += seconds
        if at > now:
            break
        records.append(StepRecord(seconds, compiled, None))
    return tuple(records)


def told(
    stages: Sequence[Lasts], after: float, alike: Sequence[RunReport] = (), **facts: Any
) -> tuple[float, str] | None:
    """The time to go, and by what, after so many seconds; `alike` may have what is not."""
    report = run(stages, after, **facts)
    if all(stage.status is not Status.RUNNING for stage in report.stages):
        raise AssertionError("no stage runs then")
    progress = with_progress(report, BEGAN + after, lambda it: newest_alike(it, alike)).progress
    assert progress is not None
    if progress.run_eta_seconds is None:
        return None
    assert progress.run_eta_by is not None
    return progress.run_eta_seconds, progress.run_eta_by


def check(
    stages: Sequence[Lasts], within: float, by: str, alike: Sequence[RunReport] = (), **facts: Any
) -> None:
    """At a quarter, half and three quarters it is told so exactly."""
    for point in POINTS:
        left = (1 - point) * total(stages)
        answer = told(stages, point * total(stages), alike, **facts)
        assert answer is not None, point
        assert answer[0] == pytest.approx(left, rel=within), point
        assert answer[1] == by


def test_with_alike_runs_it_is_within_fifteen_percent() -> None:
    check(WARM, 0.15, "history", [run(WARM, run_id="before")])
    check(slower(WARM, 1.1), 0.15, "history", [run(DEMO, run_id="before")])
    check(slower(WARM, 0.9), 0.15, "history", [run(WARM, run_id=str(number)) for number in range(9)])


def test_without_it_is_within_thirty_percent_by_the_rate_of_its_own_steps() -> None:
    """And the first run, which compiles, is no worse than one that finds all in the cache."""
    check(DEMO, 0.30, "steps", work=WORK)
    check(WARM, 0.30, "steps", work=WORK)
    check(slower(DEMO, 8.0), 0.30, "steps", work=WORK)


def test_what_only_the_first_run_had_to_compile_is_not_to_come_for_the_next() -> None:
    """For it is in the cache, but where the compiles of this run show that it finds nothing there."""
    check(WARM, 0.05, "history", [run(DEMO, run_id="first")])
    first = tuple(dataclasses.replace(stage, compiles=10 * stage.compiles) for stage in DEMO)
    check(first, 0.10, "history", [run(first, run_id="first")])
    check(first, 0.10, "history", [run(WARM, run_id="second"), run(first, run_id="first")])
    in_memory = tuple(dataclasses.replace(stage, compiles=0.0) for stage in DEMO)
    check(in_memory, 0.05, "history", [run(WARM, run_id="second"), run(first, run_id="first")])


def test_the_median_of_the_newest_five_is_what_counts() -> None:
    runs = [
        run(slower(WARM, factor), run_id=str(number), started_unix_seconds=BEGAN - number)
        for number, factor in enumerate((1.0, 1.0, 9.0, 1.0, 0.2, 50.0, 50.0, 50.0))
    ]
    check(WARM, 0.02, "history", runs)


def test_by_a_plan_it_is_known_before_the_first_step_and_says_so() -> None:
    planned = (
        StageForecast(StageName.TEXT_ENCODE, None, True, 0.08, None),
        StageForecast(StageName.DENOISE, "transformer", True, 0.8, None),
        StageForecast(StageName.VAE_DECODE, None, True, 0.8, None),
    )
    forecast = Forecast("the compiler", None, planned)
    facts: dict[str, Any] = {"work": WORK, "forecast": forecast, "device": TPU}
    check(WARM, 0.30, "plan", **facts)
    assert told(DEMO, 0.1, **facts) == (0.08 + 20 * 0.8 + 9 * 0.8, "plan")


def test_what_nobody_knows_is_none() -> None:
    half = 0.5 * total(DEMO)
    assert told(DEMO, half) is None  # the stages to come are not said
    assert told(DEMO, half, work=WORK, device=dataclasses.replace(CPU, platform="gpu")) is None
    assert told(DEMO, half, work=WORK, device=None) is None
    assert told(DEMO, 0.5, work=WORK) is None  # nothing has been measured
    assert told(DEMO, half, [run(DEMO, run_id="failed", status=Status.FAILED)]) is None
    assert told(DEMO, half, [run(DEMO, run_id="other", params={"steps": 50})]) is None
    assert told((Lasts("denoise", seconds=9.0),), 5.0, [run(DEMO[:3], run_id="before")]) is None


def test_a_stage_that_takes_longer_than_ever_leaves_those_to_come() -> None:
    before = [run(WARM, run_id="before")]
    late = (dataclasses.replace(WARM[0], seconds=100.0), *WARM[1:])
    answer = told(late, 90.0, before)
    assert answer is not None
    assert answer[0] == pytest.approx(total(WARM[1:]))
    last = (*WARM[:-1], dataclasses.replace(WARM[-1], seconds=100.0))
    assert told(last, total(last) - 1.0, before) == (0.0, "history")


@pytest.mark.parametrize("alike", [[run(WARM, run_id="before")], []])
def test_it_neither_jumps_nor_turns_to_nonsense_from_stage_to_stage(alike: list[RunReport]) -> None:
    """From a tenth of a second to the next by no more than an eighth of the run: a cache that has it not."""
    before: float | None = None
    for tenth in range(1, int(total(DEMO) * 10)):
        answer = told(DEMO, tenth / 10, alike, work=WORK)
        if answer is None:
            assert before is None, tenth
            continue
        assert answer[0] >= 0
        assert before is None or abs(answer[0] - before) <= total(DEMO) / 8, tenth
        before = answer[0]


WORKFLOW = (
    node("load", 4.0),
    node("encode", 0.5, Lasts("load", "text_encoder", 1.0), Lasts("text_encode", steps=(0.5,))),
    node("sample", 0.0, Lasts("load", "transformer", 2.0), Lasts("denoise", steps=(1.0,) * 20)),
    node("ksampler", 0.0, steps=(0.5,) * 10),
    node("decode", 3.0),
)
GRAPH: dict[str, Any] = {"params": {"workflow": "a1b2"}, "device": None}


def test_a_workflow_is_known_by_its_nodes_and_the_models_stages_within() -> None:
    """What its nodes have told meanwhile (a prompt, the devices) does not matter."""
    before = run(WORKFLOW, run_id="before", params={"workflow": "a1b2", "prompt": "a boat"}, device=CPU)
    check(WORKFLOW, 0.01, "history", [before], **GRAPH)
    other = dataclasses.replace(before, params={"workflow": "ffff"})
    assert told(WORKFLOW, 6.0, [other], **GRAPH) is None


def test_a_workflow_whose_nodes_take_longer_counts_what_is_left_of_the_running_one_by_its_steps() -> None:
    long = slower(WORKFLOW, 2.0)
    after = total(long[:2]) + 4.0 + 10 * 2.0  # half of the steps within the sampler
    answer = told(long, after, [run(WORKFLOW, run_id="before", **GRAPH)], **GRAPH)
    assert answer == (10 * 2.0 + 5.0 + 3.0, "history")


def test_nodes_that_are_cached_now_are_not_to_come() -> None:
    before = run(WORKFLOW, run_id="before", **GRAPH)
    cached = tuple(Node(name, "Class" + name, None) for name in ("load", "encode"))
    check(WORKFLOW[2:], 0.01, "history", [before], cached_nodes=cached, **GRAPH)
    partly = run(WORKFLOW[2:], run_id="partly", cached_nodes=cached, **GRAPH)
    assert told(WORKFLOW, 6.0, [partly], **GRAPH) is None  # it has not done what is to be done


def test_nodes_in_another_order_are_still_to_come() -> None:
    before = run(WORKFLOW, run_id="before", **GRAPH)
    turned = (*WORKFLOW[:2], WORKFLOW[3], WORKFLOW[2], WORKFLOW[4])
    check(turned, 0.01, "history", [before], **GRAPH)


def test_nodes_that_ran_at_the_same_time_count_as_long_as_they_took_together() -> None:
    nodes = (node("a", 10.0), node("b", 10.0), node("c", 10.0))
    before = run(nodes, run_id="before", total_seconds=15.0, **GRAPH)
    assert told(nodes, 0.0, [before], **GRAPH) == (10.0 + 0.5 * 20.0, "history")


def test_a_download_of_before_is_not_to_come_again() -> None:
    stages = (Lasts("download", seconds=600.0), *WARM)
    check(WARM, 0.15, "history", [run(stages, run_id="before")])


def events_of(report: RunReport) -> list[Any]:
    """What is told of a run, in its order, and when."""
    begun = dataclasses.replace(
        report, status=Status.RUNNING, stages=(), total_seconds=None, run_id=report.run_id
    )
    events: list[tuple[float, Any]] = [(BEGAN, RunStarted(begun))]
    for number, stage in enumerate(report.stages):
        assert stage.seconds is not None
        at = stage.started_unix_seconds
        start = dataclasses.replace(
            stage, status=Status.RUNNING, seconds=None, steps=(), step_seconds=None, compile_seconds=0.0
        )
        events.append((at, StageStarted(report.run_id, number, start)))
        for index, record in enumerate(stage.steps):
            at += record.seconds
            left = None if record.compiled else (len(stage.steps) - index - 1) * record.seconds
            place = (report.run_id, "test", number, stage.name)
            step = StepFinished(*place, index, record, len(stage.steps), left, None, None, None)
            events.append((at, step))
        ends = stage.started_unix_seconds + stage.seconds
        events.append((ends, StageFinished(report.run_id, "test", number, stage)))
    return [*events, (BEGAN + (report.total_seconds or 0.0), RunFinished(report))]


class Followed:
    """A fold that hears a run's events at the times when they happen."""

    def __init__(self, report: RunReport, alike_of: AlikeOf = nothing_alike) -> None:
        self.now = 0.0
        self.answers: list[tuple[float, float | None]] = []
        self.fold = Fold(lambda run_id: None, lambda: self.now, alike_of)
        for self.now, event in events_of(report):
            progress = getattr(self.fold.add(event), "progress", None)
            if progress is not None:
                self.answers.append((self.now - BEGAN, progress.run_eta_seconds))


def test_who_hears_the_events_is_told_with_each_of_them() -> None:
    before = run(WARM, run_id="before")
    followed = Followed(run(WARM), lambda it: newest_alike(it, [before]))
    assert len(followed.answers) == 7 + 30
    for at, left in followed.answers:
        assert left == pytest.approx(total(WARM) - at, abs=0.3)


def test_a_history_that_answers_late_counts_from_then_on() -> None:
    whole = run(WARM)
    answers: list[Any] = [None, None, [run(WARM, run_id="before")]]
    reports = {whole.run_id: run(WARM, 2.0)}
    fold = Fold(reports.get, lambda: BEGAN + 2.0, lambda it: answers.pop(0))
    heard = [
        getattr(fold.add(event), "progress", None) for at, event in events_of(whole) if at <= BEGAN + 2.0
    ]
    known = [progress.run_eta_seconds for progress in heard if progress is not None]
    assert known[0] is None
    assert known[-1] == pytest.approx(total(WARM) - 2.0, abs=0.5)
    assert answers == []


def test_of_a_run_that_is_told_anew_the_alike_ones_are_looked_for_anew() -> None:
    whole = run(WARM)
    asked: list[str | None] = []

    def alike_of(it: RunReport) -> Sequence[RunReport]:
        asked.append(it.name)
        return [run(WARM, run_id="before")]

    named = run(WARM, 2.0, name="a boat")
    fold = Fold({named.run_id: named}.get, lambda: BEGAN + 2.0, alike_of)
    began, *rest = [event for at, event in events_of(whole) if at <= BEGAN + 2.0]
    for event in (began, RunChanged(named), *rest):
        fold.add(event)
    assert asked == [None, "a boat"]


def test_a_history_that_cannot_be_asked_costs_no_event(caplog: pytest.LogCaptureFixture) -> None:
    def broken(it: RunReport) -> Sequence[RunReport]:
        raise OSError("the disk is gone")

    followed = Followed(run(WARM), broken)
    assert [left for _, left in followed.answers] == [None] * 37
    assert [message for message in caplog.messages if "still to go" in message] == [
        "what a run has still to go is not known: OSError: the disk is gone"
    ]


def test_three_hundred_nodes_and_five_alike_runs_cost_little() -> None:
    """Each of the alike runs is read once, and not with each event."""
    nodes = tuple(node(str(number), 1.0) for number in range(300))
    before = [run(nodes, run_id=str(number), **GRAPH) for number in range(5)]
    asked: list[str] = []

    def alike_of(it: RunReport) -> Sequence[RunReport]:
        asked.append(it.run_id)
        return newest_alike(it, before)

    followed = Followed(run(nodes, **GRAPH), alike_of)
    assert [left for _, left in followed.answers] == [300.0 - number for number in range(300)]
    assert asked == ["now"]
