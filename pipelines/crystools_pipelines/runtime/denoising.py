"""A denoising step: what the model predicts for the sample, and how the solver goes on with it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from crystools_pipelines.parallel import layout
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


def on_branches(
    mesh: Mesh, dtype: str, count: int, sample: jax.Array, timestep: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sample and timestep for so many guidance branches, split over the mesh; the sample in `dtype`."""
    sample = jnp.broadcast_to(sample.astype(dtype), (count, *sample.shape[1:]))
    sample = jax.lax.with_sharding_constraint(sample, layout.branches(mesh))
    return sample, jnp.broadcast_to(timestep, (count,))


def guided(output: jax.Array, guidance: jax.Array) -> jax.Array:
    """The output, float32, that guidance makes of those of two branches, the prompt's first; one stays."""
    output = output.astype(jnp.float32)
    return output if output.shape[0] == 1 else output[1:] + guidance * (output[:1] - output[1:])
