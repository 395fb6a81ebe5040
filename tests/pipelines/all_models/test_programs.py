"""A model's programs are compiled in the first run and kept; and weights are known before they are loaded."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.runtime.residency import free_all
from crystools_pipelines.wan import sharding as wan21_sharding
from crystools_pipelines.wan.transformer import build_transformer
from crystools_pipelines.weights.loading import State, plan_state
from crystools_pipelines.weights.shapes import Shapes, abstract_state
from crystools_pipelines.weights.stored import StoredWeights
from tests.pipelines.all_models.conftest import Run


@pytest.mark.parametrize("model", MODELS)
def test_a_second_run_compiles_nothing(model: str, run: Run) -> None:
    free_all()
    first, second = (run(model).report for _ in range(2))
    assert sum(stage.compile_seconds for stage in first.stages) > 0
    assert [stage.name for stage in second.stages if stage.compile_cache is not None] == []


def compiled_text(weights: State | Shapes) -> str:
    """A program that takes all of these weights, as it is compiled."""
    return jax.jit(lambda weights: jax.tree.map(jnp.square, weights)).lower(weights).compile().as_text() or ""


def test_the_abstract_state_is_what_a_run_loads(tiny_wan21: Path) -> None:
    mesh = make_mesh(jax.devices(), branches=2, widths=(2,))
    folder = tiny_wan21 / "transformer"
    model = build_transformer(folder, mesh)
    state = abstract_state(model, mesh, wan21_sharding.TRANSFORMER, "bfloat16")
    plan = plan_state(model, StoredWeights(folder, "transformer"), state)
    expected = plan.load()
    assert plan.device_bytes == sum(array.addressable_shards[0].data.nbytes for array in expected.values())
    assert state.keys() == expected.keys()
    assert compiled_text(state) == compiled_text(expected)
    for name, leaf in state.items():
        assert (leaf.shape, leaf.dtype) == (expected[name].shape, expected[name].dtype), name
        assert leaf.sharding.is_equivalent_to(expected[name].sharding, leaf.ndim), name
