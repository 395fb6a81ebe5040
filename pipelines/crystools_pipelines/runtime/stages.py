"""The kinds of stages there are: of one step, of denoising steps, and of turns through time.

What has several steps runs by a plan: for each step its function and its cost. A step may hand a cache on to
the next.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from crystools_pipelines.costs import Cost
from crystools_pipelines.parallel.mesh import DATA
from crystools_pipelines.runtime.job import Job
from crystools_pipelines.runtime.previews import Preview, previewing
from crystools_pipelines.runtime.programs import (
    QUICK_COMPILE,
    Component,
    Program,
    abstract,
    identify,
    signature,
)
from crystools_tpu.telemetry import CachedStep, StageName, StageRecorder
from crystools_tpu.telemetry.events import FULL

FLOAT32_BYTES = 4  # of an element in a VAE, whatever the job's dtype

State = TypeVar("State")


@dataclass(frozen=True)
class StepCost:
    """What a step must compute and move through HBM, over all devices, by the model's architecture."""

    flops: float
    moved_bytes: float

    @classmethod
    def of(cls, cost: Cost, itemsize: int) -> "StepCost":
        """The cost where each parameter, and each element of activations, has so many bytes."""
        return cls(float(cost.flops), cost.moved_bytes(itemsize))

    @property
    def of_step(self) -> dict[str, Any]:
        """The cost as the facts of a stage (`telemetry.StageFacts`)."""
        return {
            "flops_per_step": self.flops,
            "flops_method": "architecture",
            "bytes_per_step": self.moved_bytes,
        }


def guided_cost(mesh: Mesh, branches: int, itemsize: int, cost: Callable[[int], Cost]) -> StepCost:
    """The cost of a step of so many guidance branches; `cost` is that of some of them.

    Each group of devices along `data` reads all the weights for its share of the branches.
    """
    groups = mesh.shape[DATA]
    moved_bytes = groups * cost(branches // groups).moved_bytes(itemsize)
    return StepCost(float(cost(branches).flops), moved_bytes)


@dataclass(frozen=True)
class Step:
    """A step of a plan: `function(weights, state, input, cache, *constants)`, and what it costs.

    The function returns its output, the cache that it hands on, and whether the output is finite. `cache` is
    what the step before handed on: in the first what the stage begins with, None in one that starts `fresh`.
    Steps that do not compute the same are of another `kind`, which telemetry counts apart.

    Where the device decides whether the step is skipped there is its cost `if_skipped`, and the function
    returns booleans as well: which of its parts have skipped, all of them for the whole. `if_partly_skipped`
    is the cost where only some have, if that is another.
    """

    function: Callable[..., Any]
    cost: StepCost
    fresh: bool = field(default=False, kw_only=True)
    kind: str = field(default=FULL, kw_only=True)
    if_skipped: StepCost | None = field(default=None, kw_only=True)
    if_partly_skipped: StepCost | None = field(default=None, kw_only=True)

    def report(self, stage: StageRecorder, finite: Any, skipped: Any = None) -> None:
        """Tells the stage of the step, which was just dispatched."""
        cached = None
        if self.if_skipped is not None:
            some = self.if_partly_skipped
            cached = CachedStep(
                skipped,
                self.if_skipped.flops,
                self.if_skipped.moved_bytes,
                None if some is None else (some.flops, some.moved_bytes),
            )
        cost = self.cost
        stage.step(finite, kind=self.kind, flops=cost.flops, moved_bytes=cost.moved_bytes, cached=cached)


@dataclass(frozen=True)
class Turn(Step):
    """A step through time. Its state is always the stage's source, its input the place where it starts."""

    start: int


def run_once(
    job: Job,
    name: StageName,
    component: Component[Any],
    function: Callable[..., Any],
    *args: Any,
    sharding: NamedSharding,
    cost: StepCost,
) -> jax.Array:
    """A stage of a single step: the output of `function(weights, *args)`, split as `sharding` says.

    `function`, which `Programs.compile` takes, returns it with whether it is finite.
    """
    with job.run.stage(name, steps=1, **cost.of_step) as stage:
        out_shardings = (sharding, job.everywhere)
        program = component.programs.compile(function, *args, out_shardings=out_shardings)
        output: jax.Array
        output, finite = program(component.weights, *args)
        stage.step(finite)
        job.on_step()
    return output


def run_denoising(
    job: Job,
    name: str,
    component: Component[Any],
    solver: State,
    steps: Sequence[Step],
    constants: tuple[Any, ...],
    inputs: Iterable[Any] | None = None,
    preview: Preview | None = None,
    cache: Any = None,
) -> tuple[State, Any]:
    """A `denoise` stage of the component called `name`: the solver's state and the cache after `steps`.

    A step's output is the state for the next, on every device; the cache stays as `cache`, with which the
    first begins, lies on the devices. `inputs`, where steps have any, are as many as these, of one shape, and
    are drawn as the steps come. `preview` is what `job.on_latents` sees of the states.
    """
    decided = any(step.if_skipped is not None for step in steps)
    planned = len(steps) if decided else Counter(step.kind for step in steps)
    sharding = jax.tree.map(lambda array: array.sharding, cache) if cache is not None else job.everywhere
    dearest = max((step.cost for step in steps), key=lambda cost: cost.flops)
    with job.run.stage(StageName.DENOISE, component=name, steps=planned, **dearest.of_step) as stage:
        return _run_steps(
            job,
            stage,
            component,
            steps,
            solver,
            [None] * len(steps) if inputs is None else inputs,
            constants,
            cache,
            next_state=previewing(job, component, preview, solver),
            out_shardings=(job.everywhere, sharding, *[job.everywhere] * (2 if decided else 1)),
            donate=(1, 3),
        )


def run_turns(
    job: Job,
    name: StageName,
    component: Component[Any],
    source: Any,
    turns: Sequence[Turn],
    *,
    sharding: NamedSharding,
    cache_sharding: NamedSharding,
    axis: int = 0,
) -> NDArray[np.float32]:
    """A stage with a step for each turn; their outputs on the host, joined along `axis`."""
    chunks: list[jax.Array] = []

    def keep(output: jax.Array) -> Any:
        chunks.append(job.fetch(output))
        return source

    with job.run.stage(name, steps=len(turns), **turns[-1].cost.of_step) as stage:
        _run_steps(
            job,
            stage,
            component,
            turns,
            source,
            [np.int32(turn.start) for turn in turns],
            (),
            next_state=keep,
            out_shardings=(sharding, cache_sharding, job.everywhere),
            donate=(3,),
            effort=QUICK_COMPILE,
        )
        return job.to_host(chunks, axis)


def _run_steps(
    job: Job,
    stage: StageRecorder,
    component: Component[Any],
    steps: Sequence[Step],
    state: State,
    inputs: Iterable[Any],
    constants: tuple[Any, ...],
    cache: Any = None,
    *,
    next_state: Callable[[Any], State],
    **how: Any,
) -> tuple[State, Any]:
    """The state and the cache after all steps, `next_state(output)` being the state after each.

    Everything is compiled before the first step, in the way that `how` says (`Programs.compile`).
    """
    programs: list[Program] = []
    for index, (step, step_input) in enumerate(zip(steps, inputs, strict=True)):
        programs = programs or _compile_steps(component, steps, state, step_input, cache, constants, how)
        cache = None if step.fresh else cache
        output, cache, *done = programs[index](component.weights, state, step_input, cache, *constants)
        state = next_state(output)
        step.report(stage, *done)
        job.on_step()
    return state, cache


def _compile_steps(
    component: Component[Any],
    steps: Sequence[Step],
    state: Any,
    step_input: Any,
    cache: Any,
    constants: tuple[Any, ...],
    how: dict[str, Any],
) -> list[Program]:
    """A program for each step; steps of one function and a cache of one shape have the same."""
    distinct: dict[Hashable, Program] = {}
    programs: list[Program] = []
    cache = abstract(cache)
    for step in steps:
        cache = None if step.fresh else cache
        key = identify(step.function), signature(cache)
        if key not in distinct:
            compile_ = component.programs.compile
            distinct[key] = compile_(step.function, state, step_input, cache, *constants, **how)
        programs.append(distinct[key])
        _, cache, *_ = distinct[key].outputs
    return programs
