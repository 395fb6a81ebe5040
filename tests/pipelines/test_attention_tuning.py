"""For which attention block sizes are tried, which, and what their blocks take through HBM."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from crystools_pipelines.kernels.attention import block_sizes
from crystools_pipelines.kernels.flash_kernel import BlockSizes, flash_attention
from crystools_pipelines.parallel import defaults
from crystools_pipelines.parallel.defaults import best_blocks, read_defaults
from crystools_pipelines.planning.attention_tuning import (
    AttentionShape,
    attention_shapes,
    candidates,
    moved_bytes,
)
from crystools_tpu.telemetry.chips import CHIPS, chip_spec


def test_the_kernels_calls_are_found_in_a_program() -> None:
    kernel = partial(flash_attention, head_dim=64, sizes=BlockSizes(256, 512, 256))
    query, key = (jax.ShapeDtypeStruct((2, tokens, 256), jnp.bfloat16) for tokens in (300, 500))

    @jax.jit
    def program(query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return kernel(query, key, key, keys=500)[0], kernel(query, query, query, keys=300)[0]

    assert attention_shapes([program.trace(query, key)], 64) == {
        AttentionShape(2, 300, 500, 256, 64),
        AttentionShape(2, 300, 300, 256, 64),
    }


def test_blocks_are_evenly_full() -> None:
    """Of keys whole tiles of 16 suffice: 15 blocks of 5040 are 75600, without padding."""
    sizes = BlockSizes(query=2048, key=5120, compute=256)
    assert sizes.even(75600, 75600) == BlockSizes(2048, 5040, 256)
    assert sizes.even(2100, 5200) == BlockSizes(1152, 2608, 256)
    assert sizes.even(45, 13) == BlockSizes(128, 16, 16)


def test_no_two_are_tried_that_come_to_the_same_blocks() -> None:
    """All queries and all keys are one block; what is left to choose is how many keys at a time."""
    assert candidates(AttentionShape(1, 500, 1000, 128, 128)) == [
        BlockSizes(1024, 2048, compute) for compute in (256, 512, 1024)
    ]
    assert candidates(AttentionShape(1, 500, 500, 128, 128)) == [
        BlockSizes(1024, 2048, compute) for compute in (256, 512)
    ]
    long = AttentionShape(1, 75600, 75600, 1280, 128)
    blocks = {sizes.even(long.queries, long.keys) for sizes in candidates(long)}
    assert 8 <= len(blocks) == len(candidates(long)) <= 12


def test_keys_and_values_come_once_for_each_block_of_queries() -> None:
    """1100 queries are two blocks of 640 where a block may have 1024, and as few where it may have 640."""
    shape = AttentionShape(2, 1100, 300, 256, 64)
    row_bytes = 2 * 256 * 2
    assert moved_bytes(shape, BlockSizes(2048, 512, 256)) == row_bytes * (2 * 1100 + 2 * 300)
    for query in (640, 1024):
        assert moved_bytes(shape, BlockSizes(query, 512, 256)) == row_bytes * (2 * 1100 + 2 * 300 * 2)


def test_the_best_blocks_are_those_for_a_chip_and_a_width_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = {"query": 2048, "key": 4096, "compute": 256}
    entry = {"chip": "v6e", "head_dim": 128, "blocks": blocks}
    monkeypatch.setattr(defaults, "read_defaults", lambda: {"attention_blocks": [entry]})
    assert best_blocks("v6e", 128) == blocks
    assert best_blocks("v6e", 64) is None
    assert best_blocks("v5e", 128) is None
    assert block_sizes(chip_spec("TPU v6 lite"), 128) == BlockSizes(**blocks)
    usual = block_sizes(None, 128)
    assert usual != BlockSizes(**blocks)
    assert block_sizes(chip_spec("TPU v5 lite"), 128) == block_sizes(chip_spec("TPU v6 lite"), 64) == usual


def test_every_entry_is_the_best_of_those_tried_and_says_how_it_was_found() -> None:
    entries = read_defaults()["attention_blocks"]
    assert len({(entry["chip"], entry["head_dim"]) for entry in entries}) == len(entries)
    for entry in entries:
        seconds = entry["estimated_seconds"]
        tried = {name: value for name, value in seconds.items() if value is not None}
        sizes = BlockSizes(**entry["blocks"])
        assert f"{sizes.query} x {sizes.key} x {sizes.compute}" == min(tried, key=tried.__getitem__)
        assert entry["chip"] in {chip.name for chip in CHIPS}
        assert "--tune-attention" in entry["command"]
        assert entry["libtpu"]
