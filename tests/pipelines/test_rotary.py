"""The TPU's kernel that norms and turns heads, interpreted, against the same in plain jax and in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from crystools_pipelines.kernels.rotary import Norm, _pallas, _plain

NORMS = [Norm("all heads", 1e-6), Norm("head", 1e-6), Norm("head", 1e-5, centred=True)]


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("turned", [True, False])
def test_the_tpu_kernel_norms_and_turns_as_plain_jax_does(norm: Norm, head_dim: int, turned: bool) -> None:
    """Of 1100 tokens, more than a block and no multiple of it."""
    random = np.random.default_rng(0)
    tensor = jnp.asarray(random.standard_normal((1, 1100, 256), np.float32))
    is_of_all = norm.over == "all heads"
    weight, bias = map(jnp.asarray, random.standard_normal((2, 256 if is_of_all else head_dim), np.float32))
    factor = jnp.asarray(random.uniform(1, 2, (1, 1100, 1) if is_of_all else ()), jnp.float32)
    angles = random.uniform(0, 6, (1100, head_dim // 2)).repeat(2, axis=1)
    tables = (jnp.cos(angles), jnp.sin(angles)) if turned else None
    operands = tensor, factor, weight, bias, tables
    plain = _plain(*operands, norm=norm, head_dim=head_dim)
    kernel = _pallas(*operands, norm=norm, head_dim=head_dim, interpret=True)
    np.testing.assert_allclose(kernel, plain, rtol=0, atol=2e-5)


def test_a_turn_is_the_product_with_a_complex_number() -> None:
    random = np.random.default_rng(0)
    tensor, angles = random.standard_normal((1, 7, 16)), random.uniform(0, 6, (7, 4))
    twice = jnp.asarray(angles.repeat(2, axis=1), jnp.float32)
    tables = jnp.cos(twice), jnp.sin(twice)
    one, none = jnp.ones(16), jnp.zeros(16)
    output = _plain(
        jnp.asarray(tensor, jnp.float32), jnp.ones(()), one, none, tables, norm=NORMS[0], head_dim=8
    )
    pairs = tensor.reshape(7, 2, 4, 2) @ [1, 1j] * np.exp(1j * angles)[:, None]
    expected = np.stack([pairs.real, pairs.imag], axis=-1).reshape(1, 7, 16)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
