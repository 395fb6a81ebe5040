"""A denoising step: what the model predicts for the sample, and how the solver goes on with it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.parallel import layout
from crystools_pipelines.weights.loading import State

_TABLE_ROWS = 64


def denoising_step(
    predict: Callable[..., jax.Array],
    advance: Callable[..., Any],
    weights: State,
    solver: Any,
    noise: jax.Array | None,
    cache: Any,
    schedule: Any,
    guidance: jax.Array,
    *conditions: Any,
    caching: Callable[..., Any] | None = None,
) -> tuple[Any, ...]:
    """The next solver state, the cache to carry on, and whether the latents are all finite.

    `solver` goes from step to step: `step`, the number of the step that comes, `sample`, the latents, and
    what else `advance` needs. `schedule` has tables with a row for each step, of which one is `timesteps`.
    `predict(weights, sample, timestep, guidance, *conditions)` is the model's outputs, one for each guidance
    branch; `advance(schedule, solver, output)` the state after what guidance makes of them, float32, which
    also takes the `noise` for this step where there is any. `guidance` is a scalar, or has one for each step.

    `caching(predict, cache)`, where there is one, gives the outputs and the cache to carry on, and is free
    not to run all that `predict()` does; what it gives beyond these follows in what is returned.
    """
    scale = guidance if guidance.ndim == 0 else guidance[solver.step]
    timestep = schedule.timesteps[solver.step]
    predict = partial(predict, weights, solver.sample, timestep, scale, *conditions)
    outputs, cache, *decided = (predict(), None) if caching is None else caching(predict, cache)
    output = guided(outputs, scale)
    solver = advance(schedule, solver, output, *(() if noise is None else (noise,)))
    return solver, cache, jnp.isfinite(solver.sample).all(), *decided


def with_room(tables: Any) -> Any:
    """Tables with a row for each step, or scalars, with rows for more steps, which are zeros.

    So another number of steps is another program only where it is beyond a multiple of so many.
    """

    def with_rows(table: NDArray[Any]) -> NDArray[Any]:
        if table.ndim == 0:
            return table
        return np.pad(table, [(0, -len(table) % _TABLE_ROWS), *[(0, 0)] * (table.ndim - 1)])

    return jax.tree.map(with_rows, tables)


def on_branches(
    mesh: Mesh, dtype: str, count: int, sample: jax.Array, timestep: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sample and timestep for so many guidance branches, split over the mesh; the sample in `dtype`."""
    sample = jnp.broadcast_to(sample.astype(dtype), (count, *sample.shape[1:]))
    sample = jax.lax.with_sharding_constraint(sample, layout.branches(mesh))
    return sample, jnp.broadcast_to(timestep, (count,))


def guided(outputs: jax.Array, guidance: jax.Array) -> jax.Array:
    """The output, float32, that guidance makes of those of two branches, the prompt's first; one stays."""
    outputs = outputs.astype(jnp.float32)
    return outputs if outputs.shape[0] == 1 else outputs[1:] + guidance * (outputs[:1] - outputs[1:])
