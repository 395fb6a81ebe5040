"""FLUX.2's schedule, shifted by the size of the image, as tables: one compiled step serves every step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError


class Schedule(NamedTuple):
    """For each step, float32 `[steps]`: the timestep of 0 to 1000, the share of noise, and how far along the
    output it goes."""

    timesteps: jax.Array | NDArray[np.float32]
    sigmas: jax.Array | NDArray[np.float32]
    strides: jax.Array | NDArray[np.float32]


class SolverState(NamedTuple):
    """The solver's state: the coming step's number, int32; the latents, float32 `[1, tokens, 128]`; and these
    without noise as the last step predicted them, which only who previews them reads."""

    step: jax.Array | np.int32
    sample: jax.Array | NDArray[np.float32]
    predicted: jax.Array | NDArray[np.float32]


def tabulate(scheduler: FlowMatchEulerDiscreteScheduler, steps: int, image_tokens: int) -> Schedule:
    """The schedule of `scheduler` for `steps` steps on an image of so many tokens, on the host.

    Raises CheckpointError for a configuration that draws noise in every step.
    """
    if scheduler.config.stochastic_sampling:
        raise CheckpointError("scheduler_config.json asks for stochastic_sampling: set it to false")
    scheduler.set_timesteps(
        sigmas=np.linspace(1.0, 1 / steps, steps), mu=compute_empirical_mu(image_tokens, steps)
    )
    sigmas = scheduler.sigmas.numpy()
    return Schedule(scheduler.timesteps.numpy(), sigmas[:-1], np.diff(sigmas))


def start(noise: NDArray[np.float32]) -> SolverState:
    """The state before the first step, on the host."""
    return SolverState(np.int32(0), noise, np.zeros_like(noise))


def picture(grid: tuple[int, int], state: SolverState) -> jax.Array:
    """The predicted latents, float32 `[1, 128, rows, columns]`, `grid` being rows and columns."""
    return jnp.swapaxes(state.predicted, 1, 2).reshape(1, -1, *grid)


def advance(schedule: Schedule, state: SolverState, output: jax.Array) -> SolverState:
    """The state after a step in which the model answered `output` for `state.sample`."""
    predicted = state.sample - schedule.sigmas[state.step] * output
    return SolverState(state.step + 1, state.sample + schedule.strides[state.step] * output, predicted)
