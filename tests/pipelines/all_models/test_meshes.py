"""A run's mesh is the one that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import pytest

from crystools_pipelines import run
from crystools_pipelines.errors import RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh import make_mesh, shape_of
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.weights.checkpoint import Checkpoint
from tests.pipelines.all_models.conftest import smallest


class Started(Exception):
    """The run would start now."""


def test_the_report_says_the_mesh_where_there_is_more_than_one_device(checkpoints: dict[str, Path]) -> None:
    checkpoint = Checkpoint(checkpoints["wan2.1-t2v"])
    for shape, said in ((MeshShape(1, 2, 2), {"mesh": "dp=1,sp=2,tp=2"}), (MeshShape(), {})):
        mesh = make_mesh(jax.devices()[: shape.devices], branches=1, widths=[2], shape=shape)
        with run.started_run("wan2.1-t2v", {}, checkpoint, mesh) as job:
            pass
        assert job.run.report.params == said


@pytest.mark.parametrize("model", MODELS)
def test_a_run_has_the_mesh_that_is_asked_for_or_is_refused(
    model: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def started_run(pipeline: str, params: Any, checkpoint: Any, mesh: Any, *_: Any, **others: Any) -> None:
        raise Started(shape_of(mesh))

    pipeline, request = MODELS[model].pipeline(), smallest(model)
    monkeypatch.setattr(run, "started_run", started_run)
    legal = pipeline.legal_meshes(Checkpoint(checkpoints[model]), request.branches, 4)
    assert {MeshShape(1, 4, 1), MeshShape(1, 2, 2)} <= {*legal}
    for shape, taken in [(shape, shape) for shape in legal] + [(None, legal[-1])]:
        with pytest.raises(Started) as started:
            run.generate(request, checkpoint=checkpoints[model], devices=4, mesh=shape)
        assert started.value.args == (taken,)
    with pytest.raises(RequestError, match=r"^mesh: dp=2,sp=1,tp=2 cannot be had of 4 devices"):
        run.generate(request, checkpoint=checkpoints[model], devices=4, mesh=MeshShape(2, 1, 2))
