"""The tabulated scheduler takes the same path as diffusers' own, with the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

from crystools_pipelines.cogvideox import scheduler
from crystools_pipelines.cogvideox.pipeline import PIPELINE
from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.models import MODELS
from crystools_pipelines.weights.checkpoint import Checkpoint

# scheduler/scheduler_config.json of the published checkpoints.
PUBLISHED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
}
SHAPE = (1, 2, 3)


def model(sample: Any, timestep: Any) -> Any:
    """Any smooth function of sample and timestep, in torch or in jax."""
    return 0.3 * sample**2 - sample + 1e-3 * timestep


def build(kind: type[Any], steps: int, **changes: Any) -> Any:
    own = kind.from_config(PUBLISHED | changes)
    own.set_timesteps(steps)
    return own


def by_diffusers(own: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    sample, predicted, last = torch.randn(SHAPE, generator=generator), None, None
    for timestep in own.timesteps:
        output = model(sample, timestep)
        if isinstance(own, CogVideoXDPMScheduler):
            sample, predicted = own.step(
                output, predicted, timestep, last, sample, generator=generator, return_dict=False
            )
        else:
            sample, _ = own.step(output, timestep, sample, return_dict=False)
        last = timestep
    return sample


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize(
    "changes", [{}, {"snr_shift_scale": 3.0, "prediction_type": "sample"}, {"timestep_spacing": "linspace"}]
)
@pytest.mark.parametrize("kind", [CogVideoXDDIMScheduler, CogVideoXDPMScheduler])
def test_the_table_follows_diffusers(kind: type[Any], changes: dict[str, Any], steps: int) -> None:
    own = build(kind, steps, **changes)
    schedule = scheduler.tabulate(own)
    generator = torch.Generator().manual_seed(7)
    state = scheduler.start(torch.randn(SHAPE, generator=generator).numpy())
    for noise in scheduler.noises(own, SHAPE, generator):
        output = model(state.sample, schedule.timesteps[state.step])
        state = scheduler.advance(schedule, state, output, jnp.asarray(noise))
    np.testing.assert_allclose(
        state.sample, by_diffusers(build(kind, steps, **changes)), rtol=1e-4, atol=1e-4
    )


def test_guidance_is_constant_unless_it_is_dynamic() -> None:
    own = build(CogVideoXDDIMScheduler, 50)
    schedule = scheduler.tabulate(own)
    constant = scheduler.guidance_scales(CogVideoXRequest("a cat", guidance_scale=6.0), schedule)
    np.testing.assert_array_equal(constant, [6.0] * 50)
    request = CogVideoXRequest("a cat", guidance_scale=6.0, use_dynamic_cfg=True)
    dynamic = scheduler.guidance_scales(request, schedule)
    assert dynamic.min() >= 1
    assert dynamic.max() <= 7
    assert dynamic[-1] == pytest.approx(1 + 6 * (1 - np.cos(np.pi * (31 / 50) ** 5)) / 2)


def test_another_scheduler_is_refused(tmp_path: Path) -> None:
    folder = MODELS["cogvideox-t2v"].write_published(tmp_path)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler/scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    with pytest.raises(CheckpointError, match="the scheduler is DDIMScheduler; give a checkpoint with CogV"):
        PIPELINE.prepare(CogVideoXRequest("a cat"), Checkpoint(folder))
