"""Denoising by a plan: steps of several kinds, a cache from one to the next, each step at its own cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystools_pipelines.parallel.mesh import make_mesh, replicated
from crystools_pipelines.run import started_run
from crystools_pipelines.runtime.denoising import denoising_step
from crystools_pipelines.runtime.job import Job
from crystools_pipelines.runtime.programs import Component, Programs, abstract, compiler
from crystools_pipelines.runtime.stages import Step, StepCost, run_denoising
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu import telemetry
from crystools_tpu.telemetry.events import StepFinished

MESH = make_mesh(jax.devices()[:2], branches=1, widths=(2,))
FULL, CHEAP = StepCost(10.0, 4.0), StepCost(1.0, 2.0)


class Solver(NamedTuple):
    """The smallest state: which step comes, and the sample."""

    step: Any
    sample: Any


class Schedule(NamedTuple):
    """What a step's output counts for."""

    timesteps: Any
    strides: Any


def advance(schedule: Schedule, solver: Solver, output: jax.Array) -> Solver:
    return Solver(solver.step + 1, solver.sample + schedule.strides[solver.step] * output)


def full_step(weights: Any, solver: Solver, _input: None, _cache: None, schedule: Schedule) -> Any:
    """Runs the model, which scales the sample, and hands its output on."""
    output = weights["scale"] * solver.sample
    solver = advance(schedule, solver, output)
    return solver, output, jnp.isfinite(solver.sample).all()


def cached_step(_weights: Any, solver: Solver, _input: None, output: jax.Array, schedule: Schedule) -> Any:
    """Takes the output of the step before for its own."""
    solver = advance(schedule, solver, output)
    return solver, output, jnp.isfinite(solver.sample).all()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with started_run("wan2.1-t2v", {}, Checkpoint(tmp_path), MESH) as job:
        yield job


@pytest.fixture
def compiles() -> list[str]:
    """The names of the functions that were compiled."""
    return []


@pytest.fixture
def component(compiles: list[str]) -> Component[None]:
    weights = {"scale": jax.device_put(np.float32(2), replicated(MESH))}
    compile_here = compiler("cpu", lambda function, *args: function(*args))

    def counted(traced: jax.stages.Traced, effort: int) -> Any:
        compiles.append(traced.fun_name)
        return compile_here(traced, effort)

    return Component(None, Programs(abstract(weights), counted), weights)


def start(job: Job) -> tuple[Solver, Schedule]:
    schedule = Schedule(np.zeros(4, np.float32), np.array([1, 10, 100, 1000], np.float32))
    return job.put((Solver(np.int32(0), np.ones(3, np.float32)), schedule), job.everywhere)  # type: ignore[no-any-return]


def test_every_second_step_takes_the_output_of_the_one_before(
    job: Job, component: Component[None], compiles: list[str]
) -> None:
    solver, schedule = start(job)
    steps = [Step(full_step, FULL, fresh=True), Step(cached_step, CHEAP, kind="cached")] * 2
    with telemetry.subscribe() as events:
        solver, _ = run_denoising(job, "transformer", component, solver, steps, (schedule,))
        told = [event for event in events.drain() if isinstance(event, StepFinished)]
    # 1, + 1 * 2 = 3, + 10 * 2 = 23, + 100 * 46 = 4623, + 1000 * 46 = 50623
    np.testing.assert_array_equal(solver.sample, [50623] * 3)
    assert solver.step == 4
    assert compiles == ["full_step", "cached_step"]
    stage = job.run.report.stages[-1]
    assert (stage.component, stage.steps_total, stage.flops, stage.recompiles) == ("transformer", 4, 22, 0)
    assert [step.kind for step in stage.steps] == ["full", "cached"] * 2
    flops = [event.mfu.numerator if event.mfu else None for event in told]
    assert flops == [None, 1, 10, 1]  # the first step is that of the compiles


def test_one_more_plan_of_these_steps_compiles_nothing(
    job: Job, component: Component[None], compiles: list[str]
) -> None:
    steps = [Step(full_step, FULL, fresh=True), Step(cached_step, CHEAP)]
    for plan in (steps, [steps[0], *[steps[1]] * 3]):
        solver, schedule = start(job)
        run_denoising(job, "transformer", component, solver, plan, (schedule,))
    assert compiles == ["full_step", "cached_step"]


def test_a_step_that_heeds_the_cache_has_another_program_for_the_first(
    job: Job, component: Component[None], compiles: list[str]
) -> None:
    def summing_step(weights: Any, solver: Solver, _input: None, total: Any, schedule: Schedule) -> Any:
        output = weights["scale"] * solver.sample + (0 if total is None else total)
        return advance(schedule, solver, output), output, jnp.isfinite(output).all()

    solver, schedule = start(job)
    steps = [Step(summing_step, FULL)] * 3
    solver, total = run_denoising(job, "transformer", component, solver, steps, (schedule,))
    # 1, + 1 * 2 = 3, + 10 * (6 + 2) = 83, + 100 * (166 + 8) = 17483
    np.testing.assert_array_equal(solver.sample, [17483] * 3)
    np.testing.assert_array_equal(total, [174] * 3)
    assert compiles == ["summing_step"] * 2


def test_a_cache_to_begin_with_lets_all_steps_have_one_program(
    job: Job, component: Component[None], compiles: list[str]
) -> None:
    def summing_step(weights: Any, solver: Solver, _input: None, total: Any, schedule: Schedule) -> Any:
        output = weights["scale"] * solver.sample + total
        return advance(schedule, solver, output), output, jnp.isfinite(output).all()

    solver, schedule = start(job)
    begin = job.zeros(jax.ShapeDtypeStruct((3,), jnp.float32, sharding=job.everywhere))
    steps = [Step(summing_step, FULL)] * 3
    solver, _ = run_denoising(job, "transformer", component, solver, steps, (schedule,), cache=begin)
    np.testing.assert_array_equal(solver.sample, [17483] * 3)
    assert compiles == ["summing_step"]


def test_the_device_decides_which_steps_are_skipped_and_what_they_cost(
    job: Job, component: Component[None]
) -> None:
    def deciding_step(weights: Any, solver: Solver, _input: None, _cache: None, schedule: Schedule) -> Any:
        solver = advance(schedule, solver, weights["scale"] * solver.sample)
        # Of two parts one skips in step 1, both in step 2.
        return solver, None, jnp.isfinite(solver.sample).all(), jnp.arange(2) + 1 < solver.step

    solver, schedule = start(job)
    step = Step(deciding_step, FULL, if_skipped=CHEAP, if_partly_skipped=StepCost(5.0, 3.0))
    run_denoising(job, "transformer", component, solver, [step] * 3, (schedule,))
    stage = job.run.report.stages[-1]
    assert [step.kind for step in stage.steps] == ["full", "full", "cached"]
    assert (stage.steps_total, stage.steps_by_kind, stage.flops) == (3, None, 10 + 5 + 1)


def test_as_many_inputs_as_steps(job: Job, component: Component[None]) -> None:
    solver, schedule = start(job)
    with pytest.raises(ValueError, match="shorter"):
        run_denoising(
            job, "transformer", component, solver, [Step(full_step, FULL)] * 2, (schedule,), inputs=[None]
        )


def test_a_step_is_what_the_model_predicts_and_how_the_solver_goes_on() -> None:
    def predict(weights: Any, sample: Any, timestep: Any, guidance: Any, offset: Any) -> Any:
        return jnp.concatenate([weights * sample, jnp.zeros_like(sample)]) + timestep + offset

    def noisy(schedule: Schedule, solver: Solver, output: Any, noise: Any) -> Solver:
        return advance(schedule, solver, output + noise)

    schedule = Schedule(jnp.array([5.0, 7.0]), jnp.array([1.0, 10.0]))
    solver, rest = Solver(jnp.int32(1), jnp.ones((1, 3))), (None, schedule)
    weights, offset = jnp.float32(2), jnp.float32(1)
    for guidance in (jnp.float32(3), jnp.array([0.0, 3.0])):  # for all steps, and for each
        after, cache, finite = denoising_step(
            predict, advance, weights, solver, None, *rest, guidance, offset
        )
        # the prompt's branch says 2 + 7 + 1 = 10, the other 8: 8 + 3 * (10 - 8) = 14
        np.testing.assert_array_equal(after.sample, [[141.0] * 3])
        assert (int(after.step), cache, bool(finite)) == (2, None, True)
    after, _, _ = denoising_step(predict, noisy, weights, solver, jnp.float32(1), *rest, guidance, offset)
    np.testing.assert_array_equal(after.sample, [[151.0] * 3])
    _, _, finite = denoising_step(
        predict, advance, weights, solver, None, *rest, jnp.float32(jnp.nan), offset
    )
    assert not finite
