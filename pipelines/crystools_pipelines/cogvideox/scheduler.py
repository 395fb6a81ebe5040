"""CogVideoX's two schedulers as a table, so that one compiled step serves every step.

Both are linear in the sample, the model's output and the last prediction of the clean sample; DPM adds noise.
So diffusers' own scheduler is run once over unit vectors, one for each of those tensors, and what comes out
are the coefficients. The noise it is asked for as well, with the generator that drew the initial noise.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from numpy.typing import NDArray

from crystools_pipelines.cogvideox.request import CogVideoXRequest

Scheduler: TypeAlias = CogVideoXDDIMScheduler | CogVideoXDPMScheduler

SCHEDULERS: Final[Mapping[str, type[Any]]] = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}


class Schedule(NamedTuple):
    """`timesteps` int32 `[steps]`, and how new tensors come from old ones.

    `coefficients` is float32 `[steps, 2, 3]`. Rows: next sample, predicted clean sample. Columns: sample,
    model output, last predicted clean sample.
    """

    timesteps: jax.Array | NDArray[np.int32]
    coefficients: jax.Array | NDArray[np.float32]


class SolverState(NamedTuple):
    """The solver's state between steps. `step` is an int32 scalar, the rest float32 of the latents' shape."""

    step: jax.Array | np.int32
    sample: jax.Array | NDArray[np.float32]
    predicted: jax.Array | NDArray[np.float32]


def tabulate(scheduler: Scheduler) -> Schedule:
    """The schedule of `scheduler` for its steps, on the host."""
    units, zeros = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    coefficients = []
    for index in range(len(scheduler.timesteps)):
        with_noise, noise = (
            torch.stack(_advance(scheduler, index, tensors, torch.Generator().manual_seed(0)))
            for tensors in (units, (zeros, zeros, zeros))
        )
        coefficients.append(with_noise - noise)
    return Schedule(
        scheduler.timesteps.numpy().astype(np.int32),
        torch.stack(coefficients).numpy().astype(np.float32),
    )


def guidance_scales(request: CogVideoXRequest, schedule: Schedule) -> NDArray[np.float32]:
    """The guidance scale of each step, float32 `[steps]`."""
    return np.array([_guidance(request, int(timestep)) for timestep in schedule.timesteps], np.float32)


def noises(
    scheduler: Scheduler, shape: tuple[int, ...], generator: torch.Generator
) -> Iterator[NDArray[np.float32]]:
    """The noise that each step adds: float32 of the latents' shape, or a scalar 0 where it adds nothing.

    Drawn as diffusers draws it: more often than it is used.
    """
    zeros = torch.zeros(shape)
    for index in range(len(scheduler.timesteps)):
        if isinstance(scheduler, CogVideoXDDIMScheduler):
            yield np.zeros((), np.float32)
        else:
            yield _advance(scheduler, index, (zeros, zeros, zeros), generator)[0].numpy()


def start(noise: NDArray[np.float32]) -> SolverState:
    """The state before the first step, on the host."""
    return SolverState(np.int32(0), noise, np.zeros_like(noise))


def advance(schedule: Schedule, state: SolverState, output: jax.Array, noise: jax.Array) -> SolverState:
    """The state after a step in which the model answered `output` for `state.sample`."""
    columns = (state.sample, output, state.predicted)
    rows = schedule.coefficients[state.step]
    sample, predicted = (
        sum((rows[row, column] * tensor for column, tensor in enumerate(columns)), start=jnp.float32(0))
        for row in range(2)
    )
    return SolverState(state.step + 1, sample + noise, predicted)


def _advance(scheduler: Scheduler, index: int, tensors: Any, generator: torch.Generator) -> Any:
    """The next sample and the predicted clean one, as the scheduler makes them in step number `index`."""
    sample, output, predicted = tensors
    timestep = scheduler.timesteps[index]
    if isinstance(scheduler, CogVideoXDDIMScheduler):
        return scheduler.step(output, timestep, sample, return_dict=False)
    first = index == 0
    return scheduler.step(
        output,
        None if first else predicted,
        timestep,
        None if first else scheduler.timesteps[index - 1],
        sample,
        generator=generator,
        return_dict=False,
    )


def _guidance(request: CogVideoXRequest, timestep: int) -> float:
    """The guidance scale at `timestep`; the formula, timesteps taken for steps, is the pipeline's own."""
    if not request.use_dynamic_cfg:
        return request.guidance_scale
    progress = (request.num_inference_steps - timestep) / request.num_inference_steps
    return float(1 + request.guidance_scale * (1 - np.cos(np.pi * progress**5.0)) / 2)
