"""The tabulated scheduler takes the same path as diffusers' own, whatever its configuration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.runtime import multistep

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def model(sample: Any, timestep: Any) -> Any:
    """Any smooth function of sample and timestep, in torch or in jax."""
    return 0.3 * sample**2 - sample + 1e-3 * timestep


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize(
    "config",
    [
        FLOW | {"flow_shift": 3.0},
        FLOW | {"flow_shift": 5.0, "solver_order": 3},
        FLOW | {"flow_shift": 5.0, "solver_order": 1, "solver_type": "bh1"},
        FLOW | {"disable_corrector": [0, 1]},
        FLOW | {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
    ],
)
def test_the_table_follows_diffusers(config: dict[str, Any], steps: int) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 2, 3), np.float32)
    scheduler = UniPCMultistepScheduler(**config)
    scheduler.set_timesteps(steps)
    expected = torch.from_numpy(noise)
    for timestep in scheduler.timesteps:
        expected = scheduler.step(model(expected, timestep), timestep, expected, return_dict=False)[0]

    schedule = multistep.tabulate(UniPCMultistepScheduler(**config), steps)
    state = multistep.start(schedule, noise)
    for _ in range(steps):
        output = model(state.sample, schedule.timesteps[state.step])
        state = multistep.advance(schedule, state, output)
    np.testing.assert_allclose(state.sample, expected, rtol=1e-4, atol=1e-4)


def test_every_step_is_the_same_program() -> None:
    schedule = multistep.tabulate(UniPCMultistepScheduler(**FLOW), 6)
    traced = []

    def advance(*arguments: Any) -> multistep.SolverState:
        traced.append(arguments)
        return multistep.advance(*arguments)

    step = jax.jit(advance)
    state = multistep.start(schedule, np.ones((1, 2), np.float32))
    for _ in range(6):
        state = step(schedule, state, jnp.zeros((1, 2)))
    assert len(traced) == 1


def test_a_scheduler_that_is_not_linear_is_refused() -> None:
    with pytest.raises(CheckpointError, match="thresholding"):
        multistep.tabulate(UniPCMultistepScheduler(thresholding=True), 4)
