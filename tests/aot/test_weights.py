"""Where the weights of the full-size models lie on eight devices."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from benchmarks.plans import full_size
from crystools_pipelines.models import MODELS
from crystools_pipelines.planning.rehearsal import rehearse
from crystools_pipelines.weights.checkpoint import Checkpoint


@pytest.mark.parametrize(
    ("model", "gigabytes"),
    [
        ("wan2.1-t2v", 40.3),
        ("wan2.2-t2v", 68.9),
        ("wan2.2-i2v", 69.1),
        ("cogvideox-t2v", 21.2),
        ("flux.2", 100.0),
    ],
)
def test_every_weight_has_a_rule_and_at_most_2_percent_of_the_bytes_are_on_every_chip(
    tmp_path: Path, model: str, gigabytes: float
) -> None:
    """As a run on eight devices loads them: what the VAE has in float32, the rest in bfloat16."""
    checkpoint = Checkpoint(MODELS[model].write_published(tmp_path))
    rehearsal = rehearse(MODELS[model].pipeline(), full_size(model), checkpoint, jax.devices())
    weights = [weight for load in rehearsal.loads for weight in load.weights.values()]
    total = sum(map(_bytes, weights))
    assert total == pytest.approx(gigabytes * 1e9, rel=0.01)
    assert sum(_bytes(weight) for weight in weights if weight.sharding.is_fully_replicated) <= 0.02 * total


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return int(leaf.size * leaf.dtype.itemsize)
