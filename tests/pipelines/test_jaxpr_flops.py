"""The jaxpr walker: absolute counts for each construct, and Wan2.1 14B at full size."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from diffusers import WanTransformer3DModel
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, PartitionSpec

from crystools_pipelines.interop import functional, scan
from crystools_pipelines.wan import costs
from tests.pipelines.jaxpr_flops import FlopCount, count_flops

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
PRODUCT = 2 * 8 * 8 * 8  # FLOPs of one product of two such squares


def count(function: Callable[..., Any], *args: Any) -> FlopCount:
    return count_flops(jax.make_jaxpr(function)(*args))


def matmul_kernel(x: Any, out: Any) -> None:
    out[...] = x[...] @ x[...]


def pallas_square(x: jax.Array, flops: int | None) -> Any:
    estimate = None if flops is None else pl.CostEstimate(flops=flops, bytes_accessed=0, transcendentals=0)
    return pl.pallas_call(matmul_kernel, out_shape=SQUARE, cost_estimate=estimate, name="square")(x)


def test_a_batched_product_is_two_flops_for_each_multiplication() -> None:
    left, right = jnp.ones((5, 2, 3)), jnp.ones((5, 3, 7))
    assert count(jnp.matmul, left, right) == FlopCount(2 * 5 * 2 * 3 * 7)


def test_element_wise_work_is_free() -> None:
    assert count(lambda x: jnp.sin(x).sum() + jnp.sort(x).max(), SQUARE) == FlopCount(0)


def test_a_convolution_counts_output_positions_times_kernel() -> None:
    convolve = partial(jax.lax.conv_general_dilated, window_strides=(2, 2), padding="SAME")
    image, kernel = jnp.ones((2, 4, 16, 16)), jnp.ones((6, 4, 3, 3))
    assert count(convolve, image, kernel) == FlopCount(2 * (2 * 8 * 8) * (6 * 4 * 3 * 3))


def test_a_grouped_convolution_counts_only_its_own_channels() -> None:
    convolve = partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", feature_group_count=4
    )
    image, kernel = jnp.ones((1, 4, 16, 16)), jnp.ones((4, 1, 3, 3))
    assert count(convolve, image, kernel) == FlopCount(2 * (16 * 16) * (4 * 3 * 3))


def test_a_transposed_convolution_counts_input_positions() -> None:
    upsample = partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding=((1, 2), (1, 2)), lhs_dilation=(2, 2)
    )
    image, kernel = jnp.ones((1, 4, 16, 16)), jnp.ones((6, 4, 3, 3))
    assert count(upsample, image, kernel) == FlopCount(2 * (16 * 16) * (6 * 4 * 3 * 3))


def test_a_scan_is_its_length_times_its_body() -> None:
    def layers(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, weight: (x @ weight, None), x, weights)[0]

    assert count(layers, SQUARE, jnp.ones((40, 8, 8))) == FlopCount(40 * PRODUCT)


def test_scans_within_scans_multiply() -> None:
    def inner(x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        return jax.lax.fori_loop(0, 3, lambda _, x: x @ x, x), None

    assert count(lambda x: jax.lax.scan(inner, x, length=5)[0], SQUARE) == FlopCount(15 * PRODUCT)


def test_a_while_loop_is_marked_and_its_unknown_trips_are_not_guessed() -> None:
    counted = count(lambda x: jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: x @ x, x) @ x, SQUARE)
    assert counted.flops == PRODUCT
    assert counted.marks == {"while: trip count unknown, 1024 FLOPs each not counted"}
    assert not counted.exact


def test_a_while_loop_without_products_is_exact() -> None:
    assert count(lambda x: jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: x + 1, x), SQUARE).exact


def test_a_cond_counts_its_largest_branch_and_says_so() -> None:
    counted = count(lambda x: jax.lax.cond(x.sum() > 0, lambda: x @ x @ x, lambda: x @ x), SQUARE)
    assert counted.flops == 2 * PRODUCT
    assert counted.marks == {"cond: branches of 1024 to 2048 FLOPs, the largest counted"}


def test_a_cond_of_equal_branches_is_exact() -> None:
    counted = count(lambda x: jax.lax.cond(x.sum() > 0, lambda: x @ x, lambda: x @ x.T), SQUARE)
    assert counted == FlopCount(PRODUCT)


@jax.custom_jvp
def product_with_a_rule(x: jax.Array) -> jax.Array:
    return x @ x


product_with_a_rule.defjvps(lambda tangent, _, x: tangent @ x + x @ tangent)


@pytest.mark.parametrize(
    "wrapped",
    [jax.jit(lambda x: x @ x), jax.checkpoint(lambda x: x @ x), product_with_a_rule],
    ids=["jit", "remat", "custom_jvp"],
)
def test_wrappers_are_seen_through(wrapped: Callable[..., Any]) -> None:
    assert count(wrapped, SQUARE) == FlopCount(PRODUCT)


def test_a_shard_map_runs_its_body_on_every_device_of_the_mapped_axes() -> None:
    mesh = AbstractMesh((2, 4), ("data", "tensor"))
    rows = PartitionSpec("data")
    sharded = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)
    # Each device multiplies [4, 8] by [8, 8]; the four along `tensor` repeat each other's work.
    assert count(sharded, SQUARE, SQUARE) == FlopCount(8 * (2 * 4 * 8 * 8))


def test_a_shard_map_over_one_axis_leaves_the_other_to_the_compiler() -> None:
    mesh = AbstractMesh((2, 4), ("data", "tensor"))
    rows = PartitionSpec("data")
    sharded = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows, axis_names={"data"}
    )
    assert count(sharded, SQUARE, SQUARE) == FlopCount(PRODUCT)


def test_a_pallas_kernel_is_its_own_cost_estimate() -> None:
    assert count(lambda x: pallas_square(x, flops=PRODUCT), SQUARE) == FlopCount(PRODUCT)


def test_a_batched_pallas_kernel_is_its_cost_estimate_times_the_batch() -> None:
    batched = jax.vmap(lambda x: pallas_square(x, flops=PRODUCT))
    assert count(batched, jnp.ones((3, 8, 8))) == FlopCount(3 * PRODUCT)


def test_a_pallas_kernel_without_an_estimate_is_marked() -> None:
    counted = count(lambda x: pallas_square(x, flops=None) @ x, SQUARE)
    assert counted == FlopCount(PRODUCT, frozenset({"pallas_call square: no cost estimate, not counted"}))


def test_an_opaque_product_is_marked() -> None:
    counted = count(lambda x: jax.lax.ragged_dot(x, jnp.ones((2, 8, 8)), jnp.array([3, 5])), SQUARE)
    assert counted == FlopCount(0, frozenset({"ragged_dot_general: opaque, not counted"}))


def test_wan21_14b_at_720p_traced_abstractly_has_the_flops_of_its_architecture() -> None:
    latent_shape, text_tokens = (1, 16, 21, 90, 160), 512
    with torch.device("meta"):
        transformer = WanTransformer3DModel()
    depth = len(transformer.blocks)
    transformer.blocks = scan.ScannedLayers(transformer.blocks)

    def abstract(name: str, tensor: torch.Tensor) -> jax.ShapeDtypeStruct:
        stack = (depth,) if name.startswith("blocks.") else ()
        return jax.ShapeDtypeStruct((*stack, *tensor.shape), jnp.bfloat16)

    tensors = {**dict(transformer.named_parameters()), **dict(transformer.named_buffers())}
    state = {name: abstract(name, tensor) for name, tensor in tensors.items()}
    counted = count(
        partial(functional.call, transformer, return_dict=False),
        state,
        jax.ShapeDtypeStruct(latent_shape, jnp.bfloat16),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.ShapeDtypeStruct((1, text_tokens, 4096), jnp.bfloat16),
    )
    expected = costs.transformer(transformer.config, latent_shape, text_tokens).flops
    assert counted.exact
    assert counted.flops == expected
    assert counted.flops == pytest.approx(6.523e15, rel=1e-3)
