"""A model's programs: compiled in the first run and kept, and known from a rehearsal on shapes."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from crystools_pipelines.models import MODELS
from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.rehearsal import rehearse
from crystools_pipelines.runtime.residency import free_all
from crystools_tpu.telemetry import StageName
from tests.pipelines.all_models.conftest import Run, smallest

NOT_REHEARSED = (StageName.LOAD, StageName.SAVE)


@pytest.mark.parametrize("model", MODELS)
def test_a_second_run_compiles_nothing(model: str, run: Run) -> None:
    free_all()
    first, second = (run(model).report for _ in range(2))
    assert sum(stage.compile_seconds for stage in first.stages) > 0
    assert [stage.name for stage in second.stages if stage.compile_cache is not None] == []


@pytest.mark.parametrize("model", MODELS)
def test_a_rehearsal_has_the_stages_steps_and_costs_of_the_run(
    model: str, run: Run, checkpoints: dict[str, Path]
) -> None:
    report = run(model, devices=2).report
    rehearsal = rehearse(
        MODELS[model].pipeline(),
        smallest(model),
        Checkpoint(checkpoints[model]),
        jax.devices()[:2],
        "float32",
    )
    assert [(stage.name, stage.component, stage.steps, stage.flops) for stage in rehearsal.stages] == [
        (stage.name, stage.component, len(stage.steps), stage.flops)
        for stage in report.stages
        if stage.name not in NOT_REHEARSED
    ]
    assert [load.component for load in rehearsal.loads] == [
        stage.component for stage in report.stages if stage.name is StageName.LOAD
    ]
    assert all(stage.moved_bytes > 0 for stage in rehearsal.stages)
