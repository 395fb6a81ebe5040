"""A linear multistep scheduler as a table, so that one compiled step serves every step.

UniPC is linear in the tensors that it sees: the sample, the model's output, the last corrected sample and
the earlier outputs. Its coefficients depend on the step alone. So diffusers' own scheduler is run once over
unit vectors, one for each of those tensors, and what comes out are the coefficients: whatever order, warm-up,
corrector and final step its configuration asks for is then data.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError

_SAMPLE, _OUTPUT, _LAST = 0, 1, 2
_HISTORY = 3


class Schedule(NamedTuple):
    """`timesteps` int32 `[steps]`, and for each step the coefficients of the new tensors in the old ones.

    `coefficients` is float32 `[steps, 3, 3 + history]`. Rows: converted output, corrected sample, next
    sample. Columns: sample, model output, last corrected sample, the earlier converted outputs, newest first.
    """

    timesteps: jax.Array | NDArray[np.int32]
    coefficients: jax.Array | NDArray[np.float32]


class SolverState(NamedTuple):
    """What goes from step to step. `step` is an int32 scalar, the rest float32, `history` newest first."""

    step: jax.Array | np.int32
    sample: jax.Array | NDArray[np.float32]
    last: jax.Array | NDArray[np.float32]
    history: tuple[jax.Array | NDArray[np.float32], ...]


def tabulate(scheduler: UniPCMultistepScheduler, steps: int) -> Schedule:
    """The schedule of `scheduler` for `steps` steps, on the host; the scheduler itself is used up.

    Raises CheckpointError for a configuration that is not linear.
    """
    if scheduler.config.thresholding or scheduler.config.solver_p is not None:
        raise CheckpointError("scheduler_config.json asks for thresholding or solver_p: set both to none")
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    order = scheduler.config.solver_order
    units = torch.eye(_HISTORY + order, dtype=torch.float64).unsqueeze(1)  # each [batch 1, columns]
    coefficients = []
    for timestep in scheduler.timesteps:
        scheduler.model_outputs = list(reversed(units[_HISTORY:]))
        scheduler.last_sample = units[_LAST]
        (sample,) = scheduler.step(units[_OUTPUT], timestep, units[_SAMPLE], return_dict=False)
        coefficients.append(torch.cat([scheduler.model_outputs[-1], scheduler.last_sample, sample]))
    return Schedule(
        scheduler.timesteps.numpy().astype(np.int32), torch.stack(coefficients).numpy().astype(np.float32)
    )


def start(schedule: Schedule, noise: NDArray[np.float32]) -> SolverState:
    """The state before the first step, on the host."""
    order = schedule.coefficients.shape[-1] - _HISTORY
    last, *history = (np.zeros_like(noise) for _ in range(1 + order))
    return SolverState(np.int32(0), noise, last, tuple(history))


def first_frame(state: SolverState) -> jax.Array:
    """Of the clean latents, as the last step estimated them, the first frame. For `predict_x0`."""
    newest, *_ = state.history
    return jnp.asarray(newest[:, :, :1])


def advance(schedule: Schedule, state: SolverState, output: jax.Array) -> SolverState:
    """The state after a step in which the model answered `output` for `state.sample`."""
    columns = (state.sample, output, state.last, *state.history)
    rows = schedule.coefficients[state.step]
    converted, corrected, sample = (
        sum((rows[row, column] * tensor for column, tensor in enumerate(columns)), start=jnp.float32(0))
        for row in range(3)
    )
    return SolverState(state.step + 1, sample, corrected, (converted, *state.history[:-1]))
