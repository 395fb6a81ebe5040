"""Attention against its formula, for lengths that fit no block and meshes of one to eight devices."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from crystools_pipelines.runtime.attention import attention, splash_attention
from crystools_pipelines.runtime.mesh import make_mesh


def formula(
    query: NDArray[np.float32], key: NDArray[np.float32], value: NDArray[np.float32]
) -> NDArray[np.float64]:
    logits = np.einsum("bqhd,bkhd->bhqk", query, key, dtype=np.float64) / np.sqrt(query.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weighted = np.einsum("bhqk,bkhd->bqhd", weights, value, dtype=np.float64)
    output: NDArray[np.float64] = weighted / weights.sum(-1).swapaxes(1, 2)[..., None]
    return output


@pytest.mark.parametrize(
    ("devices", "branches", "shape"),
    [
        (1, 2, {"data": 1, "sequence": 1, "tensor": 1}),
        (2, 2, {"data": 2, "sequence": 1, "tensor": 1}),
        (3, 2, {"data": 1, "sequence": 3, "tensor": 1}),
        (8, 2, {"data": 2, "sequence": 1, "tensor": 4}),
        (8, 1, {"data": 1, "sequence": 2, "tensor": 4}),
    ],
)
@pytest.mark.parametrize(("queries", "keys"), [(45, 45), (45, 13), (1, 512)])
def test_attention_is_its_formula(
    devices: int, branches: int, shape: dict[str, int], queries: int, keys: int
) -> None:
    mesh = make_mesh(jax.devices()[:devices], branches=branches, widths=(4,))
    assert dict(mesh.shape) == shape
    random = np.random.default_rng(0)
    query = random.standard_normal((branches, queries, 4, 16), np.float32)
    key, value = random.standard_normal((2, branches, keys, 4, 16), np.float32)
    output = jax.jit(attention, static_argnums=3)(query, key, value, mesh)
    np.testing.assert_allclose(output, formula(query, key, value), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("queries", "keys", "head_dim"), [(45, 13, 128), (256, 512, 128), (300, 2100, 64)])
def test_the_tpu_kernel_leaves_padding_out_of_the_softmax(queries: int, keys: int, head_dim: int) -> None:
    random = np.random.default_rng(0)
    query = random.standard_normal((2, queries, 2, head_dim), np.float32)
    key, value = random.standard_normal((2, 2, keys, 2, head_dim), np.float32)
    output = splash_attention(*map(jnp.asarray, (query, key, value)), interpret=True)
    np.testing.assert_allclose(output, formula(query, key, value), rtol=0, atol=1e-5)


Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
KERNELS: dict[str, Kernel] = {
    "tpu, interpreted": partial(splash_attention, interpret=True),
    "xla": partial(attention, mesh=make_mesh(jax.devices()[:1], branches=1, widths=(1,))),
}


@pytest.fixture(params=list(KERNELS.values()), ids=list(KERNELS))
def kernel(request: pytest.FixtureRequest) -> Kernel:
    chosen: Kernel = request.param
    return chosen


# None is a multiple of any block; 257 and 2049 are one more.
@pytest.mark.parametrize(("queries", "keys"), [(17, 17), (300, 257), (2049, 77), (33, 5000)])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_ragged_lengths_in_bfloat16_are_the_formula(
    kernel: Kernel, queries: int, keys: int, head_dim: int
) -> None:
    random = np.random.default_rng(0)
    query = 3 * random.standard_normal((1, queries, 1, head_dim), np.float32)  # so that few keys matter
    key = random.standard_normal((1, keys, 1, head_dim), np.float32)
    value = random.uniform(-1, 1, (1, keys, 1, head_dim))
    tensors = [jnp.asarray(tensor, jnp.bfloat16) for tensor in (query, key, value)]
    output = kernel(*tensors)
    assert output.dtype == jnp.bfloat16
    expected = formula(*(np.asarray(tensor, np.float32) for tensor in tensors))
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(output.astype(jnp.float32), expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize("keys", [17, 2049, 5000])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_phantom_keys_have_no_weight(kernel: Kernel, keys: int, head_dim: int) -> None:
    """All true logits are about -40: next to them a single key of zeros, whose logit is 0, would have all."""
    random = np.random.default_rng(0)
    size = math.sqrt(40 / math.sqrt(head_dim))
    query = np.full((1, 5, 1, head_dim), size, np.float32)
    key = random.normal(-size, 0.2, (1, keys, 1, head_dim)).astype(np.float32)
    value = random.uniform(0.5, 1.5, (1, keys, 1, head_dim)).astype(np.float32)
    with_a_phantom = formula(
        query, *(np.pad(tensor, ((0, 0), (0, 1), (0, 0), (0, 0))) for tensor in (key, value))
    )
    assert np.abs(with_a_phantom).max() < 1e-6
    output = kernel(*map(jnp.asarray, (query, key, value)))
    np.testing.assert_allclose(output, formula(query, key, value), rtol=0, atol=1e-4)
