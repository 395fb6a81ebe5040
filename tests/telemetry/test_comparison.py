"""Two runs side by side: what changed, and whether that can be chance."""

from __future__ import annotations

import dataclasses
import random

import pytest

from crystools_tpu.telemetry import (
    Change,
    Comparison,
    CompileCache,
    Device,
    HbmUsage,
    Ratio,
    RunReport,
    StageName,
    StageReport,
    Status,
    StepRecord,
    StepSeconds,
    Verdict,
    compare,
    regressions,
)
from crystools_tpu.telemetry.comparison import is_alike
from crystools_tpu.telemetry.step_times import step_statistics
from tests.rigs.workflow_run import WORKFLOW, node, with_nan

GIB = 2**30


def stage(
    steps: list[float] | None = None,
    *,
    seconds: float | None = None,
    peak_gib: float = 20,
    compile_seconds: float = 30.0,
    cache: CompileCache | None = CompileCache.MISS,
    name: StageName = StageName.DENOISE,
    method: str = "memory_stats",
) -> StageReport:
    records = tuple(StepRecord(step, False, True) for step in steps or ())
    statistics: StepSeconds | None = step_statistics(records)
    return StageReport(
        name=name,
        component=None,
        status=Status.SUCCEEDED,
        error=None,
        started_unix_seconds=0.0,
        seconds=sum(steps or ()) + compile_seconds if seconds is None else seconds,
        compile_seconds=compile_seconds,
        compile_cache=cache,
        compiles=(),
        recompiles=0,
        recompile_reasons=(),
        steps_total=len(records),
        steps=records,
        step_seconds=statistics,
        first_nonfinite_step=None,
        flops=None,
        flops_method=None,
        mfu=None
        if statistics is None
        else Ratio(1 / statistics.median, 1.0, statistics.median, "flop", "test"),
        mbu=None,
        bound=None,
        hbm=(HbmUsage("tpu:0", 0, int(peak_gib * GIB), 0, None, method),),  # type: ignore[arg-type]
    )


def run(run_id: str, *stages: StageReport, **changes: object) -> RunReport:
    report = RunReport(
        run_id=run_id,
        pipeline="wan2.1-t2v",
        model_id="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        params={"prompt": "a boat", "seed": 1, "height": 720},
        status=Status.SUCCEEDED,
        error=None,
        started_at="",
        started_unix_seconds=0.0,
        total_seconds=sum(stage.seconds or 0 for stage in stages),
        output=None,
        device=Device("tpu", "TPU v6 lite", 8, 8, (), None, None, None, None),
        stages=stages,
    )
    return dataclasses.replace(report, **changes)  # type: ignore[arg-type]


def steps(median: float, count: int = 50, noise: float = 0.02, seed: int = 0) -> list[float]:
    """Steps around a median, as a machine has them."""
    random_ = random.Random(seed)
    return [median * (1 + random_.gauss(0, noise)) for _ in range(count)]


def change(comparison: Comparison, name: str, stage: int = 0) -> Change:
    return next(change for change in comparison.stages[stage].changes if change.name == name)


def verdict(comparison: Comparison, name: str, stage: int = 0) -> Verdict | None:
    return change(comparison, name, stage).verdict


def test_a_slower_step_is_worse_and_a_faster_one_better() -> None:
    slow, fast = run("a", stage(steps(4.5))), run("b", stage(steps(4.1, seed=1)))
    assert verdict(compare(fast, slow), "step_seconds_median") is Verdict.WORSE
    found = change(compare(slow, fast), "step_seconds_median")
    assert found.verdict is Verdict.BETTER
    assert found.ratio == pytest.approx(4.1 / 4.5 - 1, abs=0.02)


def test_a_difference_within_the_scatter_of_the_steps_is_noise() -> None:
    a, b = run("a", stage(steps(4.5, noise=0.2))), run("b", stage(steps(4.65, noise=0.2, seed=1)))
    assert verdict(compare(a, b), "step_seconds_median") is Verdict.NOISE


def test_a_hundredth_is_no_difference_however_steady_the_steps() -> None:
    a, b = run("a", stage(steps(4.5, noise=1e-6))), run("b", stage(steps(4.53, noise=1e-6)))
    assert verdict(compare(a, b), "step_seconds_median") is Verdict.SAME


def test_too_few_steps_prove_nothing() -> None:
    a, b = run("a", stage(steps(4.5, count=4))), run("b", stage(steps(5.5, count=4)))
    assert verdict(compare(a, b), "step_seconds_median") is Verdict.UNPROVEN


def test_the_95th_percentile_needs_many_steps() -> None:
    few, more_of_few = run("a", stage(steps(4.5, 50))), run("b", stage(steps(6.0, 50)))
    assert verdict(compare(few, more_of_few), "step_seconds_p95") is Verdict.UNPROVEN
    many, more_of_many = run("a", stage(steps(4.5, 300))), run("b", stage(steps(6.0, 300)))
    assert verdict(compare(many, more_of_many), "step_seconds_p95") is Verdict.WORSE


def test_what_a_run_measures_once_is_unproven_alone_and_judged_by_runs_that_are_alike() -> None:
    a, b = run("a", stage(seconds=100)), run("b", stage(seconds=104))
    assert verdict(compare(a, b), "seconds") is Verdict.UNPROVEN
    noisy = [run(f"other{n}", stage(seconds=seconds)) for n, seconds in enumerate((96, 105))]
    assert verdict(compare(a, b, noisy), "seconds") is Verdict.NOISE
    steady = [run(f"other{n}", stage(seconds=seconds)) for n, seconds in enumerate((99, 101))]
    assert verdict(compare(a, b, steady), "seconds") is Verdict.WORSE


def test_the_steps_are_judged_by_runs_that_are_alike_too() -> None:
    a, b = run("a", stage(steps(4.5))), run("b", stage(steps(4.7)))
    assert verdict(compare(a, b), "step_seconds_median") is Verdict.WORSE
    others = [run(f"other{n}", stage(steps(median))) for n, median in enumerate((4.4, 4.8))]
    assert verdict(compare(a, b, others), "step_seconds_median") is Verdict.NOISE


def test_runs_of_other_work_or_machines_or_that_failed_judge_nothing() -> None:
    a, b = run("a", stage(seconds=100)), run("b", stage(seconds=104))
    others = [
        run("failed", stage(seconds=120), status=Status.FAILED),
        run("larger", stage(seconds=120), params={"height": 1080}),
        run("other chip", stage(seconds=120), device=None),
        a,
        b,
    ]
    assert verdict(compare(a, b, others), "seconds") is Verdict.UNPROVEN
    another_prompt = {"prompt": "a train", "seed": 2, "height": 720}
    alike = [run(f"alike{n}", stage(seconds=120), params=another_prompt) for n in range(2)]
    assert verdict(compare(a, b, alike), "seconds") is Verdict.NOISE


def test_memory_is_the_same_each_time_and_needs_no_second_measurement() -> None:
    a, b = run("a", stage(peak_gib=20)), run("b", stage(peak_gib=22))
    assert verdict(compare(a, b), "hbm_peak_bytes") is Verdict.WORSE
    sampled = run("c", stage(peak_gib=22, method="memory_stats_sampled"))
    assert verdict(compare(a, sampled), "hbm_peak_bytes") is Verdict.UNPROVEN


def test_a_compile_from_the_cache_is_no_faster_compile() -> None:
    miss, hit = run("a", stage()), run("b", stage(compile_seconds=0.5, cache=CompileCache.HIT))
    assert verdict(compare(miss, hit), "compile_seconds") is None
    assert change(compare(miss, hit), "compile_seconds").ratio == pytest.approx(0.5 / 30 - 1)


def test_mfu_follows_from_the_steps_and_is_not_judged_again() -> None:
    assert verdict(compare(run("a", stage(steps(4.5))), run("b", stage(steps(9.0)))), "mfu_ratio") is None


def test_a_stage_that_only_one_of_them_has_stands_alone() -> None:
    a = run("a", stage(steps(4.5)))
    b = run("b", stage(steps(4.5)), stage(name=StageName.VAE_DECODE, seconds=9))
    _, decode = compare(a, b).stages
    assert decode.name == "vae_decode"
    assert (decode.changes[0].a, decode.changes[0].b, decode.changes[0].verdict) == (None, 9, None)


def test_two_stages_of_the_same_name_are_compared_in_their_order() -> None:
    a = run("a", stage(seconds=1, name=StageName.LOAD), stage(seconds=5, name=StageName.LOAD))
    b = run("b", stage(seconds=2, name=StageName.LOAD), stage(seconds=5, name=StageName.LOAD))
    assert [(s.changes[0].a, s.changes[0].b) for s in compare(a, b).stages] == [(1, 2), (5, 5)]


def test_what_was_asked_for_differently_is_said_and_the_prompt_is_not() -> None:
    a = run("a", params={"prompt": "a boat", "seed": 1, "height": 720, "steps": 50})
    b = run("b", params={"prompt": "a train", "seed": 2, "height": 480})
    assert [(d.name, d.a, d.b) for d in compare(a, b).differences] == [
        ("height", 720, 480),
        ("steps", 50, None),
    ]


def failed(a: RunReport, b: RunReport, limit_ratio: float = 0.1) -> list[tuple[str, str]]:
    found = regressions(compare(a, b), limit_ratio)
    return [(stage.name if stage else "run", change.name) for stage, change in found]


OUTCOMES = {
    Status.FAILED: "failed",
    Status.RUNNING: "is still running",
    Status.CANCELLED: "was cancelled",
    Status.INTERRUPTED: "was interrupted",
}


@pytest.mark.parametrize(("status", "outcome"), OUTCOMES.items())
def test_a_run_that_did_not_do_its_work_is_not_comparable(status: Status, outcome: str) -> None:
    done, other = run("a", stage(steps(4.5))), run("b", stage(steps(4.5)), status=status)
    assert compare(done, other).incomparable == (f"B {outcome}",)
    assert compare(other, done).incomparable == (f"A {outcome}",)
    assert compare(other, dataclasses.replace(other, run_id="c")).incomparable == (
        f"B {outcome}",
        f"A {outcome}",
    )
    found = compare(done, other)
    assert (found.a_status, found.b_status) == (Status.SUCCEEDED, status)


def test_the_reason_of_a_failure_is_its_first_line() -> None:
    error = "XlaRuntimeError: RESOURCE_EXHAUSTED\n  at " + "x" * 3000
    found = compare(run("a"), run("b", status=Status.FAILED, error=error))
    assert found.incomparable == ("B failed (XlaRuntimeError: RESOURCE_EXHAUSTED)",)
    found = compare(run("a"), run("b", status=Status.FAILED, error="y" * 3000))
    assert found.incomparable == (f"B failed ({'y' * 200})",)


V6E = Device("tpu", "TPU v6 lite", 8, 8, (), None, None, None, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pipeline": "flux.2"}, "different pipelines: A wan2.1-t2v, B flux.2"),
        ({"model_id": "mine"}, "different models: A Wan-AI/Wan2.1-T2V-14B-Diffusers, B mine"),
        ({"model_id": None}, "different models: A Wan-AI/Wan2.1-T2V-14B-Diffusers, B unknown"),
        (
            {"device": dataclasses.replace(V6E, kind="TPU v5 lite")},
            "different devices: A 8 x v6e, B 8 x v5e",
        ),
        (
            {"device": dataclasses.replace(V6E, count=4, chips=4.0)},
            "different devices: A 8 x v6e, B 4 x v6e",
        ),
        ({"device": None}, "different devices: A 8 x v6e, B unknown"),
    ],
)
def test_other_work_and_other_devices_are_not_comparable(changes: dict[str, object], reason: str) -> None:
    a = run("a", stage(steps(4.5)))
    assert compare(a, run("b", stage(steps(4.5)), **changes)).incomparable == (reason,)


def test_a_run_says_nothing_about_itself() -> None:
    a = run("a", stage(steps(4.5)))
    assert compare(a, a).incomparable == ("A and B are the same run",)


def test_other_parameters_are_a_difference_and_comparable() -> None:
    found = compare(run("a"), run("b", params={"height": 480}))
    assert found.incomparable == ()
    assert [difference.name for difference in found.differences] == ["height"]


def test_what_a_run_calls_its_content_is_no_difference_and_what_it_does_not_is() -> None:
    a = run("a", params={"caption": "a boat", "seed": 1}, content_params=("caption",))
    b = run("b", params={"caption": "a cat", "seed": 2}, content_params=("caption",))
    assert [difference.name for difference in compare(a, b).differences] == ["seed"]
    assert not is_alike(a, b)
    assert is_alike(a, dataclasses.replace(b, params={"caption": "a cat", "seed": 1}))


def test_the_content_of_a_run_that_does_not_say_is_prompt_seed_and_image() -> None:
    named = {"prompt": "a boat", "negative_prompt": "rain", "seed": 1, "image": "a.png"}
    a, b = run("a", params=named), run("b", params=dict.fromkeys(named, "another"))
    assert compare(a, b).differences == ()
    assert compare(a, dataclasses.replace(b, content_params=tuple(named))).differences == ()


def test_what_broke_off_is_no_better_for_having_taken_less() -> None:
    a = run("a", stage(steps(4.5)), stage(name=StageName.VAE_DECODE, seconds=9.0))
    broken = dataclasses.replace(
        stage(steps(4.0, 20, seed=1), peak_gib=12, compile_seconds=3), status=Status.FAILED
    )
    found = compare(a, run("b", broken, status=Status.FAILED))
    assert found.changes[0].ratio is not None
    assert found.changes[0].ratio < -0.5
    assert found.changes[0].verdict is None
    assert {change.verdict for change in found.stages[0].changes} == {None}


def test_what_got_worse_by_more_than_the_limit_fails() -> None:
    a, b = run("a", stage(steps(4.5))), run("b", stage(steps(5.2)))
    assert ("denoise", "step_seconds_median") in failed(a, b)
    assert failed(a, b, limit_ratio=0.2) == []
    assert failed(b, a) == [], "better is no failure"


def test_noise_does_not_fail_however_large() -> None:
    a, b = run("a", stage(steps(1.0, 10, noise=0.9))), run("b", stage(steps(1.4, 10, noise=0.9, seed=5)))
    assert verdict(compare(a, b), "step_seconds_median") is Verdict.NOISE
    assert ("denoise", "step_seconds_median") not in failed(a, b)


def test_a_stage_of_less_than_a_hundredth_of_the_run_fails_for_its_memory_alone() -> None:
    long = stage(steps(4.5))
    a = run("a", long, stage(name=StageName.SAVE, seconds=0.1, compile_seconds=0, cache=None, peak_gib=1))
    b = run("b", long, stage(name=StageName.SAVE, seconds=0.2, compile_seconds=0, cache=None, peak_gib=2))
    assert failed(a, b) == [("save", "hbm_peak_bytes")]


def slower(report: RunReport, position: int, by: float) -> RunReport:
    """Another run of the same workflow, in which one stage took so many seconds more."""
    stages = list(report.stages)
    stages[position] = dataclasses.replace(stages[position], seconds=(stages[position].seconds or 0) + by)
    total = (report.total_seconds or 0) + by
    return dataclasses.replace(report, run_id="b", stages=tuple(stages), total_seconds=total)


def test_what_ran_in_a_node_is_compared_below_it_and_nodes_by_their_class_and_id() -> None:
    found = compare(WORKFLOW, slower(WORKFLOW, 4, 5.0))
    assert {stage.label: (stage.changes[0].a, stage.changes[0].b) for stage in found.stages} == {
        "CheckpointLoaderSimple": (4, 4),
        "Second pass": (20, 20),
        "Wan21TPUSampler": (60, 60),
        "Wan21TPUSampler > load transformer": (10, 10),
        "Wan21TPUSampler > denoise transformer": (45, 50),
        "LoopOfSomebody": (6, 6),
        "LoopOfSomebody > ImageScale #9.0.1": (2, 2),
        "LoopOfSomebody > ImageScale #9.0.2": (3, 3),
        "FetchOfSomebody #20": (10, 10),
        "FetchOfSomebody #21": (9, 9),
    }
    assert found.incomparable == found.remarks == ()
    assert [stage and stage.label for stage, _ in regressions(found, 0.04)] == [
        None,
        "Wan21TPUSampler > denoise transformer",
    ]


def test_a_node_that_one_run_took_from_its_cache_is_not_compared_with_its_neighbour() -> None:
    fewer = dataclasses.replace(WORKFLOW, run_id="b", stages=(*WORKFLOW.stages[:8], WORKFLOW.stages[9]))
    found = {stage.label: stage.changes[0] for stage in compare(WORKFLOW, fewer).stages}
    assert (found["FetchOfSomebody #20"].a, found["FetchOfSomebody #20"].b) == (10, None)
    assert (found["FetchOfSomebody #21"].a, found["FetchOfSomebody #21"].b) == (9, 9)


def test_executions_of_a_workflow_are_alike_with_the_same_graph_and_as_many_cached_nodes() -> None:
    def other(**params: str | int) -> RunReport:
        return dataclasses.replace(WORKFLOW, run_id="b", params={**WORKFLOW.params, **params})

    assert is_alike(WORKFLOW, other(prompt="a dog"))
    assert not is_alike(WORKFLOW, other(workflow="7d793037"))
    assert not is_alike(WORKFLOW, other(nodes_cached=0))
    assert not is_alike(WORKFLOW, dataclasses.replace(other(), status=Status.INTERRUPTED))


def test_a_run_that_made_nan_can_be_compared_and_that_is_said() -> None:
    found = compare(WORKFLOW, dataclasses.replace(with_nan(WORKFLOW), run_id="b"))
    assert found.incomparable == ()
    assert found.remarks == ("B succeeded, NaN from step 12",)


def test_the_stages_of_a_loop_whose_iterations_lie_in_each_other_have_short_names() -> None:
    loop = tuple(node(str(n), "Loop", float(n), 1.0, parent=n - 1 if n else None) for n in range(300))
    run = dataclasses.replace(WORKFLOW, stages=loop)
    found = compare(run, dataclasses.replace(run, run_id="b")).stages
    assert len(found) == 300
    assert {stage.label for stage in found} == {
        "Loop",
        "Loop > Loop",
        "Loop > Loop > Loop",
        "Loop > ... > Loop",
    }


def alike(count: int = 5) -> list[RunReport]:
    """Runs like `a`, each a little different."""
    return [run(f"alike{n}", stage(steps(4.5), seconds=254.0 + n)) for n in range(count)]


@pytest.mark.parametrize(
    ("b", "said"),
    [
        (run("b", stage(steps(4.5), seconds=256.0)), "B is as fast as A: 4 min 16 s, A 4 min 15 s."),
        (
            run("b", stage(steps(4.5), compile_seconds=42.0, seconds=267.0)),
            "B is 4.7% slower: +12 s compile in Denoise.",
        ),
        (
            run("b", stage(steps(4.5), compile_seconds=42.0, seconds=267.0), params={"height": 480}),
            "B is 4.7% slower, with height 480 instead of 720: +12 s compile in Denoise.",
        ),
        (run("b", stage(steps(4.5), seconds=267.0), status=Status.FAILED), "Not comparable: B failed."),
        (
            run("b", stage(steps(4.5)), total_seconds=None),
            "Nothing to compare: how long B took is not known.",
        ),
    ],
)
def test_the_bottom_line_says_what_it_comes_to(b: RunReport, said: str) -> None:
    a = run("a", stage(steps(4.5), seconds=255.0), params={"height": 720})
    assert compare(a, b, [dataclasses.replace(each, params=a.params) for each in alike()]).bottom_line == said


def test_the_bottom_line_says_that_a_change_may_be_chance() -> None:
    a, b = run("a", stage(steps(4.5), seconds=255.0)), run("b", stage(steps(4.5), seconds=267.0))
    assert compare(a, b, [run("c", stage(steps(4.5), seconds=s)) for s in (250.0,)]).bottom_line == (
        "B is 4.7% slower: +12 s in Denoise; measured too few times to know whether by chance."
    )
    wide = [run(f"c{n}", stage(steps(4.5), seconds=seconds)) for n, seconds in enumerate((250.0, 280.0))]
    assert compare(a, b, wide).bottom_line == (
        "No difference but chance: B took 4 min 27 s, A 4 min 15 s, and runs like A differ as much by "
        "themselves."
    )


def test_a_stage_is_unchanged_where_no_figure_of_it_changed() -> None:
    load = stage(name=StageName.LOAD, seconds=20.0, compile_seconds=0, cache=None)
    save = stage(name=StageName.SAVE, seconds=0.1, compile_seconds=0, cache=None)
    a = run("a", load, stage(steps(4.5)), save)
    b = run("b", load, stage(steps(5.5)), dataclasses.replace(save, seconds=0.3))
    assert [stage.unchanged for stage in compare(a, b).stages] == [True, False, True]
    fuller = stage(name=StageName.LOAD, seconds=20.0, compile_seconds=0, cache=None, peak_gib=25)
    assert not compare(a, run("b", fuller, *b.stages[1:])).stages[0].unchanged
    assert not compare(a, run("b", *b.stages[1:])).stages[0].unchanged, "A has it, B does not"
