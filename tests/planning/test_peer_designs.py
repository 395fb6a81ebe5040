"""The designs of the other packs, with which the estimate is calibrated: what they compute, and how a whole
step comes of a few blocks. Their compiles for TPUs are the benchmark's."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from benchmarks.peer_designs import whole_step
from benchmarks.peers import attention
from benchmarks.peers.designs import DESIGNS
from crystools_pipelines.models import MODELS
from crystools_pipelines.planning.hlo import parse
from crystools_tpu.telemetry.chips import CHIPS

PRODUCT = """\
ENTRY %main (param.1: bf16[8,8]) -> bf16[8,8] {{
  %param.1 = bf16[8,8]{{1,0}} parameter(0)
  ROOT %convolution.1 = bf16[8,8]{{1,0}} convolution(%param.1), backend_config={{"estimated_cycles":"{}"}}
}}
"""


def test_their_kernel_is_attention_in_which_padded_keys_take_part() -> None:
    generator = np.random.default_rng(0)
    tokens, width = 300, 64
    query, key, value = jnp.asarray(generator.normal(size=(3, 1, 1, tokens, width)), jnp.float32)
    mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("dp", "tp"))
    with pltpu.force_tpu_interpret_mode():
        output = attention.flash_attention(query, key, value, mesh, jnp.float32)
    padding = ((0, 0), (0, 0), (0, attention.KEY_BLOCK - tokens), (0, 0))
    scores = query @ np.pad(key, padding).swapaxes(-1, -2) / np.sqrt(width)
    weights = np.exp(scores)
    expected = weights / weights.sum(axis=-1, keepdims=True) @ np.pad(value, padding)
    assert output.shape == expected.shape
    np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("name", DESIGNS)
def test_each_design_is_the_published_model_on_its_mesh(name: str, tmp_path: Path) -> None:
    design = DESIGNS[name]
    folder = MODELS[design.model].write_published(tmp_path)
    configuration = json.loads((folder / "transformer" / "config.json").read_text())
    mesh = Mesh(np.asarray(jax.devices()).reshape(tuple(design.of.MESH.values())), tuple(design.of.MESH))
    one_each = dict.fromkeys(design.of.STACKS, 1)
    traced = design.of.trace(configuration | one_each, mesh, **design.shape)
    weights, inputs = traced.in_avals[0][0], traced.in_avals[0][1:]
    assert sum(aval.size for aval in jax.tree.leaves(weights)) > 1e8
    (noise,) = jax.tree.leaves(traced.out_info)
    assert noise.shape in {aval.shape for aval in jax.tree.leaves(inputs)}


def test_a_whole_step_is_one_block_of_each_stack_and_what_one_more_adds_for_every_further_one() -> None:
    chip = next(chip for chip in CHIPS if chip.name == "v6e")
    assert chip.clock_hz is not None
    cycles = {None: 1000, "double": 1300, "single": 1200}
    parts = {name: parse(PRODUCT.format(count)) for name, count in cycles.items()}
    step = whole_step(parts, {}, {"double": 8, "single": 48}, 1.0)
    assert step.total_seconds == pytest.approx((1000 + 7 * 300 + 47 * 200) / chip.clock_hz)
