"""A size that the devices do not divide works, and a rehearsal on shapes foresees that run.

Of Wan2.2 text-to-video it is not tried: its programs are those of Wan2.1, its two transformers take turns as
image-to-video's do.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from crystools_pipelines.models import MODELS
from crystools_pipelines.planning.rehearsal import rehearse
from crystools_pipelines.run import Generation
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu.telemetry import StageName
from tests.pipelines.all_models.conftest import Run, smallest

# 112 x 176 are 14 x 22 latents and 7 x 11 patches, which neither 3, 5 nor 8 devices divide among them.
ODD = {"height": 112, "width": 176}
DEVICES = {"cogvideox-t2v": 3, "wan2.1-t2v": 5, "wan2.2-i2v": 8, "flux.2": 5}
NOT_REHEARSED = (StageName.LOAD, StageName.SAVE)


@pytest.fixture(scope="module", params=DEVICES)
def model(request: pytest.FixtureRequest) -> str:
    model: str = request.param
    return model


@pytest.fixture(scope="module")
def generation(model: str, run: Run) -> Generation:
    return run(model, DEVICES[model], **ODD)


def test_it_works(generation: Generation) -> None:
    assert generation.frames.shape == (1, ODD["height"], ODD["width"], 3)
    assert np.isfinite(generation.latents).all()
    assert all(step.finite for stage in generation.report.stages for step in stage.steps)


def test_a_rehearsal_has_the_stages_steps_and_costs_of_the_run(
    model: str, generation: Generation, checkpoints: dict[str, Path]
) -> None:
    stages = generation.report.stages
    rehearsal = rehearse(
        MODELS[model].pipeline(),
        smallest(model, **ODD),
        Checkpoint(checkpoints[model]),
        jax.devices()[: DEVICES[model]],
        "float32",
    )
    assert [
        (stage.name, stage.component, len(stage.steps), sum(step.work.flops for step in stage.steps))
        for stage in rehearsal.stages
    ] == [
        (stage.name, stage.component, len(stage.steps), stage.flops)
        for stage in stages
        if stage.name not in NOT_REHEARSED
    ]
    assert [load.component for load in rehearsal.loads] == [
        stage.component for stage in stages if stage.name is StageName.LOAD
    ]
    assert all(step.work.moved_bytes > 0 for stage in rehearsal.stages for step in stage.steps)


def test_a_run_says_as_it_begins_what_its_stages_will_compute(generation: Generation) -> None:
    assert [(work.name, work.component, work.steps, work.flops) for work in generation.report.work] == [
        (stage.name, stage.component, len(stage.steps), stage.flops)
        for stage in generation.report.stages
        if stage.name not in NOT_REHEARSED
    ]
