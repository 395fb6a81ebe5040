"""Attention against its formula, for lengths that fit no block and meshes of one to eight devices."""

from __future__ import annotations

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
