"""Full-size models compiled for TPUs by libtpu's own compiler, on a machine without one.

Every layer is there: the stacks are scanned, so depth costs no compile time, and the memory is the true one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from benchmarks.tpu_compile import full_size
from crystools_pipelines.models import MODELS
from crystools_pipelines.runtime.aot import TpuCompiler
from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.rehearsal import rehearse
from crystools_tpu.telemetry import StageName
from crystools_tpu.telemetry.chips import CHIPS

WAN_STAGES = [("text_encode", None, 1), ("denoise", "transformer", 1), ("vae_decode", None, 2)]
STAGES = {  # each with its component and how many programs it has
    "wan2.1-t2v": WAN_STAGES,
    "wan2.2-i2v": [
        WAN_STAGES[0],
        ("vae_encode", None, 2),
        WAN_STAGES[1],
        ("denoise", "transformer_2", 1),
        WAN_STAGES[2],
    ],
    "cogvideox-t2v": WAN_STAGES,
    "flux.2": [*WAN_STAGES[:2], ("vae_decode", None, 1)],
}
LEAST_EFFORT = -1.0  # so that it takes minutes; what a run's own effort comes to is in benchmarks/results
HBM_BYTES = {chip.name: chip.hbm_bytes for chip in CHIPS}


@pytest.fixture(scope="module")
def compiler() -> Iterator[TpuCompiler]:
    with TpuCompiler() as compiler:
        yield compiler


@pytest.mark.timeout(600)  # a minute or two on an idle machine
@pytest.mark.parametrize(
    ("topology", "without"),
    [
        ("v6e-8", ()),
        # The benchmark compiles these for v5p too; their convolutions take as long as all the rest.
        ("v5p-8", (StageName.VAE_ENCODE, StageName.VAE_DECODE)),
    ],
    ids=["v6e-8", "v5p-8"],
)
@pytest.mark.parametrize("model", MODELS)
def test_every_full_size_stage_compiles_and_fits_the_chip(
    compiler: TpuCompiler, tmp_path: Path, model: str, topology: str, without: tuple[StageName, ...]
) -> None:
    configurations = MODELS[model].write_published(tmp_path)
    stages = compiler.compile(
        topology, model, full_size(model), configurations, effort=LEAST_EFFORT, without=without
    )
    assert [(stage.name, stage.component, len(stage.programs)) for stage in stages] == [
        stage for stage in STAGES[model] if stage[0] not in without
    ]
    for stage in stages:
        for program in stage.programs:
            room = HBM_BYTES[topology.split("-")[0]]
            if stage.name in (StageName.VAE_ENCODE, StageName.VAE_DECODE):
                room //= 3  # a third suffices where the devices share the pixels from end to end
            assert 0 < program.memory.total_bytes < room, stage.name


@pytest.mark.parametrize(
    ("model", "gigabytes"),
    [("wan2.1-t2v", 40.3), ("wan2.2-i2v", 69.1), ("cogvideox-t2v", 21.2), ("flux.2", 100.0)],
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
