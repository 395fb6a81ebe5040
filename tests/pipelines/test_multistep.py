"""The tabulated schedulers take the same path as diffusers' own, whatever their configuration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.runtime import multistep

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
FEW = np.array([1, 0.75, 0.5, 0.25])


def model(sample: Any, timestep: Any) -> Any:
    """Any smooth function of sample and timestep, in torch or in jax."""
    return 0.3 * sample**2 - sample + 1e-3 * timestep


def unipc(**config: Any) -> Any:
    return UniPCMultistepScheduler(**FLOW, **config)


def dpm(**config: Any) -> Any:
    return DPMSolverMultistepScheduler(**FLOW, **config)


def euler(**config: Any) -> Any:
    return FlowMatchEulerDiscreteScheduler(**config)


UNIPC = [
    unipc(flow_shift=3.0),
    unipc(flow_shift=5.0, solver_order=3),
    unipc(flow_shift=5.0, solver_order=1),
    unipc(flow_shift=5.0, solver_type="bh1", final_sigmas_type="sigma_min"),
    unipc(disable_corrector=[0, 1]),
    unipc(lower_order_final=False, final_sigmas_type="sigma_min"),
]
DPM = [
    dpm(flow_shift=5.0),
    dpm(flow_shift=3.0, solver_order=3, solver_type="heun"),
    dpm(euler_at_final=True, lower_order_final=False),
]
EULER = [euler(shift=5.0), euler(shift=3.0, use_karras_sigmas=True), euler(use_beta_sigmas=True)]


def follows_diffusers(scheduler: Any) -> None:
    """Asserts that the table ends where the scheduler's own steps do."""
    noise = np.random.default_rng(0).standard_normal((1, 2, 3), np.float32)
    schedule = multistep.tabulate(scheduler)
    expected = torch.from_numpy(noise)
    scheduler.set_begin_index(0)
    for timestep in scheduler.timesteps:
        expected = scheduler.step(model(expected, timestep), timestep, expected, return_dict=False)[0]

    state = multistep.start(schedule, noise)
    for _ in scheduler.timesteps:
        output = model(state.sample, schedule.timesteps[state.step])
        state = multistep.advance(schedule, state, output)
    np.testing.assert_allclose(state.sample, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 4, 20])
@pytest.mark.parametrize("scheduler", [*UNIPC, *DPM, *EULER])
def test_the_table_follows_diffusers(scheduler: Any, steps: int) -> None:
    scheduler.set_timesteps(steps)
    follows_diffusers(scheduler)


@pytest.mark.parametrize("scheduler", [*UNIPC, *EULER])
def test_the_table_follows_diffusers_at_given_sigmas(scheduler: Any) -> None:
    scheduler.set_timesteps(sigmas=FEW)
    follows_diffusers(scheduler)


def test_the_table_follows_diffusers_at_given_timesteps() -> None:
    scheduler = euler()
    scheduler.set_timesteps(timesteps=[1000, 937, 833, 625])
    follows_diffusers(scheduler)


def test_every_step_of_every_scheduler_is_the_same_program() -> None:
    traced = []

    def advance(*arguments: Any) -> multistep.SolverState:
        traced.append(arguments)
        return multistep.advance(*arguments)

    step = jax.jit(advance)
    for scheduler in (unipc(), unipc(solver_order=3), dpm(), euler()):
        scheduler.set_timesteps(4)
        schedule = multistep.tabulate(scheduler)
        state = multistep.start(schedule, np.ones((1, 2), np.float32))
        for _ in range(4):
            state = step(schedule, state, jnp.zeros((1, 2)))
    assert len(traced) == 1


def test_a_scheduler_that_divides_by_zero_is_refused() -> None:
    scheduler = unipc(solver_type="bh1")
    scheduler.set_timesteps(4)
    with pytest.raises(CheckpointError, match=r"nothing finite of 4 steps: ask for another scheduler"):
        multistep.tabulate(scheduler)


def test_a_scheduler_can_be_tabulated_again() -> None:
    scheduler = unipc()
    scheduler.set_timesteps(4)
    first, second = multistep.tabulate(scheduler), multistep.tabulate(scheduler)
    np.testing.assert_array_equal(first.coefficients, second.coefficients)


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        (unipc(thresholding=True), "thresholding"),
        (dpm(thresholding=True), "thresholding"),
        (dpm(algorithm_type="sde-dpmsolver++"), "asks for sde-dpmsolver[+][+]: set it to dpmsolver[+][+]"),
        (euler(stochastic_sampling=True), "stochastic_sampling: set it to false"),
    ],
)
def test_a_scheduler_that_is_not_linear_or_draws_noise_is_refused(scheduler: Any, says: str) -> None:
    scheduler.set_timesteps(4)
    with pytest.raises(CheckpointError, match=says):
        multistep.tabulate(scheduler)


@pytest.mark.parametrize("scheduler", [unipc(flow_shift=5.0), dpm(flow_shift=5.0), euler(shift=5.0)])
def test_what_is_previewed_is_the_estimate_of_the_clean_latents(scheduler: Any) -> None:
    scheduler.set_timesteps(4)
    schedule = multistep.tabulate(scheduler)
    rng = np.random.default_rng(0)
    noise, output = (rng.standard_normal((1, 16, 3, 2, 2), np.float32) for _ in range(2))
    state = multistep.advance(schedule, multistep.start(schedule, noise), jnp.asarray(output))
    assert multistep.predicts_clean(scheduler)
    clean = noise - scheduler.sigmas[0].item() * output
    np.testing.assert_allclose(multistep.clean(state), clean, atol=1e-6)
    np.testing.assert_allclose(multistep.first_frame(state), clean[:, :, :1], atol=1e-6)


def test_what_predicts_the_noise_is_not_previewed() -> None:
    assert not multistep.predicts_clean(unipc(predict_x0=False))
