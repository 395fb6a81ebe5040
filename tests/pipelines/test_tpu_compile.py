"""Full-size models compiled for TPUs by libtpu's own compiler, on a machine without one.

Every layer is there: the stacks are scanned, so depth costs no compile time, and the memory is the true one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from crystools_pipelines.runtime.aot import Programs, TpuCompiler, abstract_state
from crystools_pipelines.runtime.mesh import make_mesh
from crystools_pipelines.runtime.weights import plan_state
from crystools_pipelines.wan21 import programs as wan21
from crystools_pipelines.wan21 import sharding as wan21_sharding
from crystools_pipelines.wan21.request import Wan21Request
from crystools_pipelines.wan21.text import build_text_encoder
from crystools_pipelines.wan21.transformer import build_transformer
from crystools_pipelines.wan21.vae import build_decoder
from crystools_tpu.telemetry.chips import CHIPS

# The configurations of Wan-AI/Wan2.1-T2V-14B-Diffusers, as far as they differ from the classes' defaults.
WAN21: dict[str, dict[str, Any]] = {
    "transformer": {
        "_class_name": "WanTransformer3DModel",
        "num_layers": 40,
        "num_attention_heads": 40,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "ffn_dim": 13824,
        "text_dim": 4096,
    },
    "text_encoder": {
        "model_type": "umt5",
        "vocab_size": 256384,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
    "vae": {"_class_name": "AutoencoderKLWan"},
}

# 720x1280, 81 frames, guided: the request's defaults.
WAN21_REQUEST = Wan21Request("a lighthouse in a storm")

HBM_BYTES = {chip.name: chip.hbm_bytes for chip in CHIPS}


@pytest.fixture(scope="module")
def compiler() -> Iterator[TpuCompiler]:
    with TpuCompiler() as compiler:
        yield compiler


@pytest.fixture
def write_configs(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes the configurations of a checkpoint without weights, and returns its folder."""

    def write(configs: dict[str, Any]) -> Path:
        for component, config in configs.items():
            (tmp_path / component).mkdir()
            (tmp_path / component / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


@pytest.mark.timeout(600)  # some compile for half a minute on an idle machine
@pytest.mark.parametrize("topology", ["v6e-8", "v5p-8"])
@pytest.mark.parametrize(
    ("stage", "configs", "request_"),
    [
        pytest.param(wan21.text_encode, WAN21, WAN21_REQUEST, id="wan21-text-encode"),
        pytest.param(wan21.denoise, WAN21, WAN21_REQUEST, id="wan21-denoise"),
    ],
)
def test_a_full_size_stage_compiles_and_fits_the_chip(
    compiler: TpuCompiler,
    write_configs: Callable[[dict[str, Any]], Path],
    stage: Callable[..., Programs],
    configs: dict[str, Any],
    request_: Any,
    topology: str,
) -> None:
    chip = topology.split("-")[0]
    for program in compiler.compile(topology, stage, write_configs(configs), request_):
        assert program.argument_bytes > 1e9  # the weights are there
        assert program.total_bytes < HBM_BYTES[chip]


def test_every_weight_has_a_rule_and_at_most_2_percent_of_the_bytes_are_on_every_chip(
    write_configs: Callable[[dict[str, Any]], Path],
) -> None:
    """Of Wan2.1 as a run loads it: the VAE's decoder in float32, the rest in bfloat16."""
    folder = write_configs(WAN21)
    mesh = make_mesh(
        jax.devices(), branches=2, widths=wan21_sharding.widths(WAN21["transformer"], WAN21["text_encoder"])
    )
    states = [
        abstract_state(
            build_transformer(folder / "transformer", mesh), mesh, wan21_sharding.TRANSFORMER, "bfloat16"
        ),
        abstract_state(
            build_text_encoder(folder / "text_encoder"), mesh, wan21_sharding.TEXT_ENCODER, "bfloat16"
        ),
        abstract_state(build_decoder(folder / "vae"), mesh, wan21_sharding.VAE, "float32"),
    ]
    every = [leaf for state in states for leaf in state.values()]
    total = sum(map(_bytes, every))
    assert total == pytest.approx(40.3e9, rel=0.01)
    assert sum(_bytes(leaf) for leaf in every if leaf.sharding.is_fully_replicated) <= 0.02 * total


def test_the_abstract_state_is_what_a_run_loads(tiny_wan21: Path) -> None:
    mesh = make_mesh(jax.devices(), branches=2, widths=(2,))
    folder = tiny_wan21 / "transformer"
    model = build_transformer(folder, mesh)
    expected = plan_state(
        model,
        folder,
        mesh=mesh,
        rules=wan21_sharding.TRANSFORMER,
        dtype="bfloat16",
        float32=model._keep_in_fp32_modules,
    ).load()
    state = abstract_state(model, mesh, wan21_sharding.TRANSFORMER, "bfloat16")
    assert state.keys() == expected.keys()
    for name, leaf in state.items():
        assert (leaf.shape, leaf.dtype) == (expected[name].shape, expected[name].dtype), name
        assert leaf.sharding.is_equivalent_to(expected[name].sharding, leaf.ndim), name


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return int(leaf.size * leaf.dtype.itemsize)
