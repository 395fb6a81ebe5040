"""What is said of a run that has ended, case by case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crystools_tpu.telemetry import (
    Cause,
    CompileCache,
    CompileRecord,
    Explanation,
    Forecast,
    HbmUsage,
    Process,
    RunReport,
    StageName,
    StageReport,
    Status,
    StepRecord,
    Verdict,
    explain,
)
from crystools_tpu.telemetry.compile_words import short_reason
from crystools_tpu.telemetry.step_times import step_statistics
from tests.rigs.workflow_run import START, WORKFLOW, node, stage

GIB = 2**30
BASE = replace(
    WORKFLOW, pipeline="mine", params={"height": 720}, name=None, cached_nodes=(), nodes_total=None
)


def denoise(
    step: float = 2.0, *, compiled: float = 1.0, cache: CompileCache = CompileCache.HIT, **more: Any
) -> StageReport:
    """Ten steps, of which a compile fell in the first."""
    first = StepRecord(step + compiled, compiled=True, finite=True)
    steps = (first, *(StepRecord(step, compiled=False, finite=True) for _ in range(9)))
    about: dict[str, Any] = {
        "compile_seconds": compiled,
        "compile_cache": cache,
        "compiles": (CompileRecord("step", START, compiled, cache, None),),
        "steps": steps,
        "steps_total": 10,
        "step_seconds": step_statistics(steps),
        "host_wait_seconds": 0.0,
        **more,
    }
    return stage(StageName.DENOISE, None, 0.0, sum(each.seconds for each in steps), **about)


def run(*stages: StageReport, day: int = 9, **changes: Any) -> RunReport:
    """A run of so many days after the first, which took what its stages take."""
    tops = [each.seconds or 0.0 for each in stages if each.parent is None]
    report = replace(
        BASE, run_id=f"run-of-{day}", stages=stages, total_seconds=sum(tops),
        started_unix_seconds=START + 86400 * day,
    )  # fmt: skip
    return replace(report, **changes)


def usual(*more: StageReport, **changes: Any) -> list[RunReport]:
    """Five runs of 21.0 to 21.2 s."""
    return [run(denoise(2.0 + 0.005 * n), *more, day=n, **changes) for n in range(5)]


def causes(explanation: Explanation) -> list[tuple[Cause, float | None]]:
    return [
        (finding.cause, None if finding.seconds is None else round(finding.seconds, 2))
        for finding in explanation.findings
    ]


def test_a_run_within_what_its_last_five_took_is_as_fast_as_they() -> None:
    told = explain(run(denoise(2.012)), usual())
    assert told.sentence == "As fast as its last five: 21.1 s, before 21.0 s to 21.2 s."
    assert (told.verdict, told.alike, told.findings) == (Verdict.SAME, 5, ())


def test_the_first_run_says_that_there_is_nothing_to_compare_and_what_it_will_not_need_again() -> None:
    told = explain(run(denoise(compiled=52.0, cache=CompileCache.MISS)))
    assert told.sentence == (
        "The first run of its kind in the history, with nothing to compare: 1 min 12 s; compiled 52 s, which "
        "is in the cache now."
    )
    assert (told.verdict, told.alike) == (None, 0)


def test_a_cold_cache_is_no_regression() -> None:
    told = explain(run(denoise(compiled=52.0, cache=CompileCache.MISS)), usual())
    assert told.sentence == (
        "As fast as its last five but for this: compiled 52 s, which is in the cache now (1 min 12 s in all)."
    )
    assert told.verdict is Verdict.SAME
    assert causes(told) == [(Cause.COLD_CACHE, 51.0)]


def test_a_cold_cache_is_no_regression_beside_another_that_was_cold() -> None:
    cold = denoise(compiled=52.0, cache=CompileCache.MISS)
    told = explain(run(cold), [*usual(), run(cold, day=5)])
    assert (told.verdict, causes(told)) == (Verdict.SAME, [(Cause.COLD_CACHE, 51.0)])


def test_what_is_too_short_for_the_cache_is_not_said_to_be_in_it() -> None:
    compiles = tuple(CompileRecord("f", START, 0.5, CompileCache.MISS, None) for _ in range(10))
    told = explain(run(denoise(compiled=5.0, cache=CompileCache.MISS, compiles=compiles)), usual())
    assert told.sentence == (
        "18% slower than its last five (25.0 s instead of 21.1 s): compiled 5.0 s, which the cache did "
        "not have."
    )


def test_a_cache_that_is_off_is_said_with_what_to_do() -> None:
    told = explain(run(denoise(compiled=12.0, cache=CompileCache.OFF)), usual())
    assert told.sentence == (
        "52% slower than its last five (32.0 s instead of 21.1 s): compiled 12 s with the cache off. To do: "
        "name a folder in JAX_COMPILATION_CACHE_DIR."
    )


def test_what_costs_in_every_run_is_said_of_a_usual_one() -> None:
    off = [replace(each, stages=(denoise(2.0, compiled=12.0, cache=CompileCache.OFF),)) for each in usual()]
    off = [replace(each, total_seconds=32.0) for each in off]
    told = explain(run(denoise(compiled=12.0, cache=CompileCache.OFF)), off)
    assert told.sentence == (
        "As fast as its last five: 32.0 s, before 32.0 s; as usual compiled 12 s with the cache off. "
        "To do: "
        "name a folder in JAX_COMPILATION_CACHE_DIR."
    )
    assert causes(told) == [(Cause.CACHE_OFF, None)]


def test_a_run_that_found_in_the_cache_what_the_one_before_had_compiled() -> None:
    before = run(denoise(compiled=52.0, cache=CompileCache.MISS), day=1)
    told = explain(run(denoise()), [before])
    assert told.sentence == (
        "As fast as the last run like it but for this: its programs were compiled already: 51 s less of "
        "compiling "
        "(21.0 s in all)."
    )


def test_a_download_is_said_and_is_no_regression() -> None:
    download = stage(StageName.DOWNLOAD, None, 0.0, 125.0, bytes_done=28 * GIB)
    told = explain(run(denoise(), download), usual())
    assert told.sentence == (
        "As fast as its last five but for this: downloaded 28.00 GiB in 2 min 05 s, which is here now "
        "(2 min 26 s in all)."
    )


def test_the_first_run_of_a_process_loads_what_the_others_had() -> None:
    load = stage(StageName.LOAD, "transformer", 0.0, 0.1)
    one, other = Process(1, "ana", "comfyui"), Process(2, "ana", "comfyui")
    told = explain(run(denoise(), replace(load, seconds=10.0), process=other), usual(load, process=one))
    assert told.sentence == (
        "46% slower than its last five (31.0 s instead of 21.2 s): the first run of its process loaded "
        "transformer (10 s)."
    )


def test_a_load_that_was_slower_for_no_reason_in_the_reports_is_only_said_to_be() -> None:
    load = stage(StageName.LOAD, "vae", 0.0, 4.0)
    told = explain(run(denoise(), replace(load, seconds=9.0)), usual(load))
    assert told.sentence == (
        "20% slower than its last five (30.0 s instead of 25.1 s), Load vae took 9.00 s instead of 4.00 s; "
        "nothing in its report says why."
    )


def test_recompiles_that_did_not_come_back_made_a_run_faster() -> None:
    steps = tuple(StepRecord(7.0 if n == 5 else 2.0, compiled=n in (0, 5), finite=True) for n in range(10))
    recompiled = replace(denoise(compiled=0.0), steps=steps, seconds=25.0, recompiles=1)
    told = explain(run(denoise(compiled=0.0)), [run(recompiled, day=day) for day in range(3)])
    assert [(finding.cause, finding.text, finding.seconds) for finding in told.findings] == [
        (Cause.RECOMPILE, "no recompiles in Denoise instead of 1 (5.0 s less)", -5.0)
    ]


def test_one_run_to_compare_with_proves_nothing() -> None:
    told = explain(run(denoise(2.4)), usual()[:1])
    assert told.sentence == (
        "19% slower than the last run like it (25.0 s instead of 21.0 s), Denoise took 2.40 s a step instead "
        "of 2.00 s; nothing in its report says why, and with one run to compare it may be chance."
    )
    assert told.verdict is Verdict.UNPROVEN


def test_reports_of_before_the_wait_for_the_host_was_measured_are_compared_by_their_steps() -> None:
    old = [replace(each, stages=(replace(each.stages[0], host_wait_seconds=None),)) for each in usual()]
    told = explain(run(denoise(2.4, host_wait_seconds=4.0)), old)
    assert causes(told) == [(Cause.STEPS, 3.9)]


def test_nan_comes_first() -> None:
    told = explain(run(denoise(first_nonfinite_step=3)), usual())
    assert told.sentence is not None
    assert told.sentence.startswith(
        "Of no use: NaN from step 3 on, of the runs before it none; as fast as its last five: 21.0 s"
    )


def test_memory_that_was_nearly_full_is_said() -> None:
    hbm = HbmUsage("tpu:0", 0, 31 * GIB, 0, 32 * GIB, "memory_stats")
    told = explain(run(denoise(hbm=(hbm,))), usual())
    assert told.sentence is not None
    assert told.sentence.endswith(
        "; memory was nearly full in Denoise: 31.00 GiB of 32.00 GiB on tpu:0 (97%). To do: anything larger "
        "will not fit."
    )


def test_a_faster_mesh_that_the_history_knows_is_said() -> None:
    here = [replace(each, params={"height": 720, "mesh": "dp=1,sp=1,tp=8"}) for each in usual()]
    there = run(denoise(1.6), day=5, params={"height": 720, "mesh": "dp=2,sp=1,tp=4"})
    told = explain(run(denoise(), params={"height": 720, "mesh": "dp=1,sp=1,tp=8"}), [*here, there])
    assert told.sentence is not None
    assert told.sentence.endswith(
        "; mesh dp=2,sp=1,tp=4 took 1.60 s a step (run run-of-5), this one 2.00 s. To do: --mesh "
        "dp=2,sp=1,tp=4."
    )


def test_a_workflow_of_which_other_nodes_were_cached() -> None:
    cached = WORKFLOW.cached_nodes[0]
    nodes = (node("4", "CheckpointLoaderSimple", 0.0, 5.0), node("3", "KSampler", 5.0, 20.0))
    more = (*nodes, node(cached.id, "VAELoader", 25.0, 7.0))

    def executed(stages: tuple[StageReport, ...], count: int, day: int) -> RunReport:
        params = {"workflow": "5d41402a", "nodes_cached": count}
        return run(*stages, day=day, params=params, cached_nodes=(cached,) * count)

    usual = [executed(nodes, 1, day) for day in range(5)]
    assert explain(executed(more, 0, 9), usual).sentence == (
        "28% slower than its last five (32.0 s instead of 25.0 s): VAELoader was executed, which was cached "
        "before (7.0 s more)."
    )
    assert explain(executed(nodes, 1, 9), [executed(more, 0, day) for day in range(5)]).sentence == (
        "22% faster than its last five (25.0 s instead of 32.0 s): VAELoader came from the cache (7.0 s "
        "less)."
    )


def test_a_run_in_progress_is_not_spoken_of() -> None:
    assert explain(run(status=Status.RUNNING)) == Explanation("run-of-9", None, None, 0, ())


FAILED = replace(denoise(), status=Status.FAILED, steps=denoise().steps[:4], seconds=9.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"error": "XlaRuntimeError: RESOURCE_EXHAUSTED: 9.42G of 7.10G"},
            "It failed in Denoise at step 4 of 10, after 9.00 s: RESOURCE_EXHAUSTED: 9.42G of 7.10G. To "
            "do: ask "
            "for less, or for more chips: `crystools-tpu plan` says what fits.",
        ),
        (
            {
                "error": "XlaRuntimeError: RESOURCE_EXHAUSTED",
                "forecast": Forecast("estimate", None, (), ("480 x 832, 81 frames",)),
            },
            "It failed in Denoise at step 4 of 10, after 9.00 s: RESOURCE_EXHAUSTED. To do: by its plan "
            "480 x "
            "832, 81 frames would fit.",
        ),
        (
            {"error": "OutOfMemoryError: denoise: out of device memory (9 GiB wanted); try a smaller size"},
            "It failed in Denoise at step 4 of 10, after 9.00 s: denoise: out of device memory (9 GiB "
            "wanted); "
            "try a smaller size.",
        ),
        (
            {"error": "ValueError: no\nmore"},
            "It failed in Denoise at step 4 of 10, after 9.00 s: no. To do: the same succeeded before, "
            "in run "
            "run-of-4: see what has changed since.",
        ),
        (
            {"error": "ValueError: no", "params": {"height": 1}},
            "It failed in Denoise at step 4 of 10, after 9.00 s: no. To do: the log of its process has "
            "the whole "
            "error.",
        ),
        ({"status": Status.CANCELLED}, "It was cancelled in Denoise at step 4 of 10, after 9.00 s."),
        (
            {"status": Status.INTERRUPTED, "error": "its process ended without a word"},
            "It ended without a word in Denoise at step 4 of 10, after 9.00 s. To do: the system's log "
            "(`journalctl -k`) says whether it was killed for want of memory.",
        ),
    ],
    ids=["memory", "planned", "says it itself", "succeeded before", "never before", "cancelled", "killed"],
)
def test_of_a_run_that_broke_off_it_is_said_where_and_what_next(changes: dict[str, Any], said: str) -> None:
    told = explain(run(FAILED, **{"status": Status.FAILED, **changes}), usual())
    assert (told.sentence, told.verdict, told.alike) == (said, None, 0)


@pytest.mark.parametrize(
    ("explanation", "text", "remedy"),
    [
        ("at x, now f32[8,8] and before f32[16,16]", "shape f32[8,8] instead of f32[16,16]", "same shape"),
        ("at x[0]['w'], now bf16[8] and before f32[8]", "type bf16[8] instead of f32[8]", "same type"),
        (
            "at x, now f32[]{weak_type=True} and before f32[]{weak_type=False}",
            "kind of number f32[]{weak_type=True} instead of f32[]{weak_type=False}",
            "same kind of number",
        ),
        ("at x, now f32[8@a] and before f32[8]", "sharding f32[8@a] instead of f32[8]", "same sharding"),
        (
            "at input path args[0], now a tuple and before a list, so the types differ",
            "other inputs at input path args[0]: a tuple instead of a list",
            "same inputs",
        ),
        ("never seen function:; step id=1402 defined at a.py:12", "step was a new function", "once, before"),
        (
            "jax_enable_x64 differs: now True and before False",
            "jax's jax_enable_x64 was True instead of False",
            "before the first step",
        ),
        (
            "for step; Tracing context doesn't match, e.g. due to config or context manager.",
            "a setting of jax's had changed",
            "before the first step",
        ),
        ("jit(step), jit(other)", "jit(step), jit(other)", None),
    ],
)
def test_jaxs_explanation_in_short_words(explanation: str, text: str, remedy: str | None) -> None:
    reason = short_reason(explanation)
    assert reason.text == text
    assert (reason.remedy is None) if remedy is None else remedy in (reason.remedy or "")
