"""Small pictures of latents for who watches a run: cut out on the devices, and only if somebody asks."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

import jax

from crystools_pipelines.runtime.job import Job
from crystools_pipelines.runtime.programs import Component
from crystools_tpu.telemetry.guard import Guard

State = TypeVar("State")
Preview: TypeAlias = Callable[[Any], jax.Array]
"""What is previewed of a solver's state: a module's function, or a partial of one with hashable arguments."""

_log = logging.getLogger(__name__)
_NOT_SHOWN = "the latents could not be previewed"


def previewing(
    job: Job, component: Component[Any], preview: Preview | None, solver: State
) -> Callable[[State], State]:
    """What a stage does with the state after each step: it goes on as it is, `job.on_latents` hears of it.

    Where nobody listens, that is all. Else the program for `preview` is compiled now, before the first step,
    from the shapes in `solver`. Each call of what `on_latents` is given runs it once: the host waits for
    nothing, and the picture is copied as soon as it is there. The devices must have been given it before the
    next step, which takes the state for its own. The first failure is a warning and the end of it, but not of
    the steps.
    """
    show = job.on_latents
    if show is None or preview is None:
        return lambda state: state
    guard = Guard(_log)
    program: Callable[..., jax.Array] | None = None
    with guard(_NOT_SHOWN):
        function = partial(preview_of_latents, preview)
        program = component.programs.compile(function, solver, out_shardings=job.everywhere)

    def next_state(state: State) -> State:
        nonlocal program
        working, program = program, None
        if working is not None:
            with guard(_NOT_SHOWN):
                show(lambda: job.fetch(working(component.weights, state)))
                program = working
        return state

    return next_state


def preview_of_latents(preview: Preview, _weights: Any, solver: Any) -> jax.Array:
    """`preview` as `Programs` compiles a function; no weight goes into the program."""
    return preview(solver)
