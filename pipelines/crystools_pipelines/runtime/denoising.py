"""A denoising step: what the model predicts for the sample, and how the solver goes on with it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from crystools_pipelines.weights.loading import State


def denoising_step(
    predict: Callable[..., jax.Array],
    advance: Callable[..., Any],
    weights: State,
    solver: Any,
    noise: jax.Array | None,
    _cache: None,
    schedule: Any,
    guidance: jax.Array,
    *conditions: Any,
) -> tuple[Any, None, jax.Array]:
    """The next solver state, nothing to carry on, and whether the latents are all finite.

    `solver` goes from step to step: `step`, the number of the step that comes, `sample`, the latents, and
    what else `advance` needs. `schedule` has tables with a row for each step, of which one is `timesteps`.
    `predict(weights, sample, timestep, guidance, *conditions)` is the model's output, float32, as guidance
    has it; `advance(schedule, solver, output)` the state after it, which also takes the `noise` for this step
    where there is any. `guidance` is a scalar, or has one for each step.
    """
    scale = guidance if guidance.ndim == 0 else guidance[solver.step]
    output = predict(weights, solver.sample, schedule.timesteps[solver.step], scale, *conditions)
    solver = advance(schedule, solver, output, *(() if noise is None else (noise,)))
    return solver, None, jnp.isfinite(solver.sample).all()


def guided(output: jax.Array, guidance: jax.Array) -> jax.Array:
    """The output that guidance makes of those of two branches, the prompt's first; a single one stays."""
    return output if output.shape[0] == 1 else output[1:] + guidance * (output[:1] - output[1:])
