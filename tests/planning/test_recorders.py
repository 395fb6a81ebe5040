"""A pipeline's stages are the same code whoever records them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from crystools_pipelines.planning.rehearsal import RehearsedStage, RehearsedStep, Work, _Run
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunRecorder

Recorder = Callable[[], AbstractContextManager[RunRecorder]]


def denoise(run: RunRecorder, steps: int = 4) -> None:
    """A stage as a pipeline writes it, with a cheap step after each full one."""
    half = steps // 2
    with run.stage(
        "denoise",
        component="transformer",
        steps={"full": half, "cached": half},
        flops_per_step=100.0,
        flops_method="architecture",
        bytes_per_step=10.0,
    ) as stage:
        for _ in range(half):
            stage.step(None)
            stage.step(None, kind="cached", flops=1.0, moved_bytes=2.0)
        stage.transferred(0)
    run.warn("the cache was used")
    run.output = f"{run.run_id}.mp4"


@contextmanager
def rehearsed() -> Iterator[RunRecorder]:
    yield _Run([])


@contextmanager
def recorded() -> Iterator[RunRecorder]:
    with telemetry.run("test", bus=telemetry.Bus(), history=telemetry.History()) as run:
        yield run


@contextmanager
def silent() -> Iterator[RunRecorder]:
    with telemetry.silent_run("test") as run:
        yield run


@pytest.mark.parametrize("recorder", [recorded, silent, rehearsed])
def test_a_stage_runs_against_every_recorder(recorder: Recorder) -> None:
    with recorder() as run:
        denoise(run)
        assert run.devices == ()
        (stage,) = run.report.stages
    assert (stage.name, stage.component, stage.status) == ("denoise", "transformer", "succeeded")
    assert run.report.output == f"{run.run_id}.mp4"


def test_a_rehearsal_keeps_what_each_step_costs_and_runs() -> None:
    stages: list[RehearsedStage] = []
    with _Run(stages).stage("denoise", steps=3, flops_per_step=100.0, bytes_per_step=10.0) as stage:
        stages[0].ran(0)
        stage.step(None)
        stages[0].ran(1)
        stage.step(None, kind="cached", flops=1.0, moved_bytes=2.0)
        stages[0].ran(2)
        stage.step(None, cached=telemetry.CachedStep(None, flops=3.0, moved_bytes=4.0))
    full, cached = Work("full", 100.0, 10.0), Work("cached", 1.0, 2.0)
    assert stages[0].steps == [
        RehearsedStep(full, None, (0,)),
        RehearsedStep(cached, None, (1,)),
        RehearsedStep(full, Work("cached", 3.0, 4.0), (2,)),
    ]


def test_a_stage_without_costs_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="stage 'denoise' lacks steps, flops_per_step or bytes_per_step"):
        with _Run([]).stage("denoise", steps=4):
            pass
