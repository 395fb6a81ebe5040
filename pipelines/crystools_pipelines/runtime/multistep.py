"""A linear scheduler as a table, so that one compiled step serves every step of every such scheduler.

UniPC, DPM++ and Euler are linear in the tensors that they see: the sample, the model's output, the last
corrected sample and the earlier outputs. Their coefficients depend on the step alone. So diffusers' own
scheduler is run once over unit vectors, one for each of those tensors, and what comes out are the
coefficients: whatever order, warm-up, corrector and final step its configuration asks for is then data.
"""

import copy
from typing import Any, Final, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError

_SAMPLE, _OUTPUT, _LAST = 0, 1, 2
_HISTORY = 3
_LEAST_HISTORY: Final = 3  # the highest usual order, so that another scheduler is no other program

Rows: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Schedule(NamedTuple):
    """`timesteps` float32 `[steps]`, and for each step the coefficients of the new tensors in the old ones.

    `coefficients` is float32 `[steps, 3, 3 + history]`. Rows: converted output, corrected sample, next
    sample. Columns: sample, model output, last corrected sample, the earlier converted outputs, newest first.
    """

    timesteps: jax.Array | NDArray[np.float32]
    coefficients: jax.Array | NDArray[np.float32]


class SolverState(NamedTuple):
    """What goes from step to step. `step` is an int32 scalar, the rest float32, `history` newest first."""

    step: jax.Array | np.int32
    sample: jax.Array | NDArray[np.float32]
    last: jax.Array | NDArray[np.float32]
    history: tuple[jax.Array | NDArray[np.float32], ...]


def tabulate(scheduler: Any) -> Schedule:
    """The schedule of one of diffusers' schedulers for the steps that it is set to, on the host.

    Raises CheckpointError for a configuration that is not linear, that draws noise in every step, or that
    divides by zero.
    """
    _check_linear(scheduler)
    scheduler = copy.deepcopy(scheduler)  # the steps use it up
    scheduler.set_begin_index(0)
    history = max(scheduler.config.get("solver_order", 1), _LEAST_HISTORY)
    units = torch.eye(_HISTORY + history, dtype=torch.float64).unsqueeze(1)  # each [batch 1, columns]
    timesteps = scheduler.timesteps.numpy().astype(np.float32)
    rows = [torch.cat(_rows(scheduler, index, units)) for index in range(len(timesteps))]
    coefficients = torch.stack(rows).numpy().astype(np.float32)
    if not np.isfinite(coefficients).all():
        raise CheckpointError(
            f"the scheduler, as scheduler_config.json has it, makes nothing finite of {len(timesteps)} steps:"
            " ask for another scheduler, or for more steps"
        )
    return Schedule(timesteps, coefficients)


def _check_linear(scheduler: Any) -> None:
    config = scheduler.config
    if config.get("thresholding") or config.get("solver_p") is not None:
        raise CheckpointError("scheduler_config.json asks for thresholding or solver_p: set both to none")
    if config.get("stochastic_sampling"):
        raise CheckpointError("scheduler_config.json asks for stochastic_sampling: set it to false")
    if config.get("algorithm_type", "").startswith("sde"):
        raise CheckpointError(
            f"scheduler_config.json asks for {config.algorithm_type}: set it to dpmsolver++"
        )


def _rows(scheduler: Any, index: int, units: torch.Tensor) -> Rows:
    """What step number `index` makes of the unit vectors; diffusers' scheduler counts the steps itself."""
    before = {"timestep": scheduler.timesteps[index], "sample": units[_SAMPLE], "return_dict": False}
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        (sample,) = scheduler.step(units[_OUTPUT], **before)
        converted = units[_SAMPLE] - scheduler.sigmas[index] * units[_OUTPUT]
        return converted, torch.zeros_like(sample), sample
    earlier = units[_HISTORY : _HISTORY + scheduler.config.solver_order]
    scheduler.model_outputs = list(reversed(earlier))
    if isinstance(scheduler, UniPCMultistepScheduler):
        scheduler.last_sample = units[_LAST]
        (sample,) = scheduler.step(units[_OUTPUT], **before)
        return scheduler.model_outputs[-1], scheduler.last_sample, sample
    (sample,) = scheduler.step(units[_OUTPUT], **before)
    return scheduler.model_outputs[-1], torch.zeros_like(sample), sample


def predicts_clean(scheduler: Any) -> bool:
    """Whether what a step keeps of the model's output is an estimate of the clean latents."""
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        return bool(scheduler.config.algorithm_type == "dpmsolver++")
    return bool(scheduler.config.get("predict_x0", not scheduler.config.get("invert_sigmas")))


def start(schedule: Schedule, noise: NDArray[np.float32]) -> SolverState:
    """The state before the first step, on the host."""
    history = schedule.coefficients.shape[-1] - _HISTORY
    last, *earlier = (np.zeros_like(noise) for _ in range(1 + history))
    return SolverState(np.int32(0), noise, last, tuple(earlier))


def clean(state: SolverState) -> jax.Array:
    """The clean latents as the last step estimated them, by a scheduler that `predicts_clean`."""
    newest, *_ = state.history
    return jnp.asarray(newest)


def first_frame(state: SolverState) -> jax.Array:
    """The first frame of a video's `clean`."""
    return clean(state)[:, :, :1]


def advance(schedule: Schedule, state: SolverState, output: jax.Array) -> SolverState:
    """The state after a step in which the model answered `output` for `state.sample`."""
    columns = (state.sample, output, state.last, *state.history)
    rows = schedule.coefficients[state.step]
    converted, corrected, sample = (
        sum((rows[row, column] * tensor for column, tensor in enumerate(columns)), start=jnp.float32(0))
        for row in range(3)
    )
    return SolverState(state.step + 1, sample, corrected, (converted, *state.history[:-1]))
