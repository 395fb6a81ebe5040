"""The kinds of stages there are: of one step, of denoising steps, and of turns that hand a cache on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from crystools_pipelines.parallel.mesh import DATA
from crystools_pipelines.runtime.component import QUICK_COMPILE, Component, Program
from crystools_pipelines.runtime.job import Job
from crystools_tpu.telemetry import StageName

FLOAT32_BYTES = 4  # of an element in a VAE, whatever the job's dtype

Solver = TypeVar("Solver")


@dataclass(frozen=True)
class StepCost:
    """What a step must compute and move through HBM, over all devices, by the model's architecture."""

    flops: float
    moved_bytes: float

    @property
    def of_step(self) -> dict[str, Any]:
        """As a stage takes it."""
        return {
            "flops_per_step": self.flops,
            "flops_method": "architecture",
            "bytes_per_step": self.moved_bytes,
        }


def guided_cost(
    mesh: Mesh, branches: int, flops: Callable[[int], float], moved_bytes: Callable[[int], float]
) -> StepCost:
    """The cost of a step of so many guidance branches; `flops` and `moved_bytes` are those of some of them.

    Each group of devices along `data` reads all the weights for its share of the branches.
    """
    groups = mesh.shape[DATA]
    return StepCost(flops(branches), groups * moved_bytes(branches // groups))


def run_once(
    job: Job,
    name: StageName,
    component: Component[Any],
    function: Callable[..., Any],
    *args: Any,
    sharding: NamedSharding,
    cost: StepCost,
    effort: int = 0,
) -> jax.Array:
    """A stage of a single step: the output of `function(weights, *args)`, split as `sharding` says.

    `function` returns it with whether it is finite; what else is said of it is said of `Component.compile`.
    """
    with job.stage(name, steps=1, **cost.of_step) as stage:
        program = component.compile(function, *args, out_shardings=(sharding, job.everywhere), effort=effort)
        output: jax.Array
        output, finite = program(*args)
        stage.step(finite)
        job.on_step()
    return output


def run_denoising(
    job: Job,
    name: str,
    component: Component[Any],
    function: Callable[..., Any],
    solver: Solver,
    constants: tuple[Any, ...],
    *,
    steps: int,
    cost: StepCost,
    inputs: Iterable[Any] | None = None,
) -> Solver:
    """A `denoise` stage of the component called `name`: the solver's state after `steps` steps.

    Each is `function(weights, solver, input, *constants)`, `input` being the next of `inputs` where there are
    any; it returns the next state, replicated, and whether its latents are finite.
    """
    with job.stage(StageName.DENOISE, component=name, steps=steps, **cost.of_step) as stage:
        program = None
        for each in repeat(None, steps) if inputs is None else inputs:
            program = program or component.compile(
                function, solver, each, *constants, out_shardings=job.everywhere, donate=(1,)
            )
            solver, finite = program(solver, each, *constants)
            stage.step(finite)
            job.on_step()
    return solver


@dataclass(frozen=True)
class Turn:
    """One of consecutive steps through time: `function(weights, source, start, cache)`.

    It returns its output, the cache for the next turn, and whether the output is finite.
    """

    function: Callable[..., Any]
    start: int
    cost: StepCost


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
    """A stage with a step for each turn; their outputs on the host, joined along `axis`.

    The first turn has no cache; all others are of one program. Everything is compiled before the first.
    """
    with job.stage(name, steps=len(turns), **turns[-1].cost.of_step) as stage:
        out_shardings = (sharding, cache_sharding, job.everywhere)
        programs = _compile_turns(component, source, turns, out_shardings)
        cache, chunks = None, []
        for turn, program in zip(turns, programs, strict=True):
            output, cache, finite = program(source, np.int32(turn.start), cache)
            chunks.append(job.fetch(output))
            stage.step(finite, flops=turn.cost.flops, moved_bytes=turn.cost.moved_bytes)
            job.on_step()
        return job.to_host(chunks, axis)


def _compile_turns(
    component: Component[Any],
    source: Any,
    turns: Sequence[Turn],
    out_shardings: tuple[NamedSharding, NamedSharding, NamedSharding],
) -> list[Program]:
    def compile_turn(turn: Turn, cache: Any) -> Program:
        return component.compile(
            turn.function,
            source,
            np.int32(turn.start),
            cache,
            out_shardings=out_shardings,
            donate=(3,),
            effort=QUICK_COMPILE,
        )

    first = compile_turn(turns[0], None)
    if len(turns) == 1:
        return [first]
    _, cache_outputs, _ = first.outputs
    cache = jax.tree.map(
        lambda entry: jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=out_shardings[1]), cache_outputs
    )
    return [first] + [compile_turn(turns[1], cache)] * (len(turns) - 1)
