"""Attention against its formula, for lengths that fit no block and meshes of one to eight devices."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from crystools_pipelines.kernels.attention import (
    Heads,
    attention,
    cross_attention,
    joint_attention,
    splash_attention,
)
from crystools_pipelines.kernels.flash_kernel import BlockSizes, flash_attention, is_exact
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.parallel.mesh_shape import MeshShape

ONE = make_mesh(jax.devices()[:1], branches=1, widths=(1,))
SIZES = BlockSizes(query=256, key=512, compute=256)


def formula(query: Any, key: Any, value: Any, *, head_dim: int) -> NDArray[np.float64]:
    """Of heads side by side, in float64."""
    query, key, value = (each.reshape(*each.shape[:2], -1, head_dim) for each in (query, key, value))
    logits = np.einsum("bqhd,bkhd->bhqk", query, key, dtype=np.float64) / np.sqrt(head_dim)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weighted = np.einsum("bhqk,bkhd->bqhd", weights, value, dtype=np.float64)
    output: NDArray[np.float64] = weighted / weights.sum(-1).swapaxes(1, 2)[..., None]
    return output.reshape(*output.shape[:2], -1)


def heads(random: np.random.Generator, batch: int, tokens: int, width: int) -> Heads:
    return Heads(*map(jnp.asarray, random.standard_normal((3, batch, tokens, width), np.float32)))


# Four heads of 16; two of them exchange tokens for heads, three and eight devices gather keys.
MESHES = [
    (1, MeshShape()),
    (2, MeshShape(data=2)),
    (2, MeshShape(sequence=2)),
    (3, MeshShape(sequence=3)),
    (8, MeshShape(data=2, sequence=2, tensor=2)),
    (8, MeshShape(sequence=8)),
    (8, MeshShape(data=2, tensor=4)),
]


@pytest.mark.parametrize(("devices", "shape"), MESHES, ids=str)
@pytest.mark.parametrize(("tokens", "true"), [(45, 45), (48, 45)])
def test_attention_is_its_formula(devices: int, shape: MeshShape, tokens: int, true: int) -> None:
    mesh = make_mesh(jax.devices()[:devices], branches=2, widths=(4,), shape=shape)
    own = heads(np.random.default_rng(0), 2, tokens, 64)
    output = jax.jit(attention, static_argnums=(1, 2, 3))(own, mesh, 16, true)
    expected = formula(own.query, own.key[:, :true], own.value[:, :true], head_dim=16)
    np.testing.assert_allclose(output[:, :true], expected[:, :true], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("devices", "shape"), MESHES, ids=str)
def test_joint_attention_is_that_of_all_tokens_without_padding(devices: int, shape: MeshShape) -> None:
    mesh = make_mesh(jax.devices()[:devices], branches=2, widths=(4,), shape=shape)
    random = np.random.default_rng(0)
    own, text = heads(random, 2, 48, 64), heads(random, 2, 8, 64)
    outputs = jax.jit(joint_attention, static_argnums=(2, 3, 4, 5))(own, text, mesh, 16, 45, 5)
    keys, values = (
        np.concatenate([mine[:, :45], its[:, :5]], 1) for mine, its in zip(own[1:], text[1:], strict=True)
    )
    for queries, output in zip((own.query, text.query), outputs, strict=True):
        np.testing.assert_allclose(output, formula(queries, keys, values, head_dim=16), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("devices", "shape"), [MESHES[0], MESHES[3], MESHES[4]], ids=str)
def test_cross_attention_is_its_formula(devices: int, shape: MeshShape) -> None:
    mesh = make_mesh(jax.devices()[:devices], branches=2, widths=(4,), shape=shape)
    random = np.random.default_rng(0)
    query, text = heads(random, 2, 45, 64).query, heads(random, 2, 13, 64)
    output = jax.jit(cross_attention, static_argnums=(3, 4))(query, text.key, text.value, mesh, 16)
    np.testing.assert_allclose(output, formula(query, text.key, text.value, head_dim=16), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("queries", "keys", "head_dim"), [(45, 13, 128), (256, 512, 128), (300, 2100, 64)])
def test_splash_attention_leaves_padding_out_of_the_softmax(queries: int, keys: int, head_dim: int) -> None:
    random = np.random.default_rng(0)
    query = jnp.asarray(random.standard_normal((2, queries, 2 * head_dim), np.float32))
    key, value = map(jnp.asarray, random.standard_normal((2, 2, keys, 2 * head_dim), np.float32))
    output = splash_attention(query, key, value, head_dim, keys, interpret=True)
    np.testing.assert_allclose(output, formula(query, key, value, head_dim=head_dim), rtol=0, atol=1e-5)


Kernel = Callable[..., jax.Array]


def flash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    head_dim: int,
    keys: int,
    running_maximum: bool = False,
) -> jax.Array:
    output, _ = flash_attention(
        query, key, value, head_dim, keys, SIZES, running_maximum=running_maximum, interpret=True
    )
    return output


KERNELS: dict[str, Kernel] = {
    "flash": flash,
    "flash with a running maximum": partial(flash, running_maximum=True),
    "splash": partial(splash_attention, interpret=True),
    "xla": lambda query, key, value, head_dim, keys: attention(Heads(query, key, value), ONE, head_dim, keys),
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
    width = 128  # one head, or two
    query = 3 * random.standard_normal((1, queries, width), np.float32)  # so that few keys matter
    key = random.standard_normal((1, keys, width), np.float32)
    value = random.uniform(-1, 1, (1, keys, width))
    tensors = [jnp.asarray(tensor, jnp.bfloat16) for tensor in (query, key, value)]
    output = kernel(*tensors, head_dim, keys)
    assert output.dtype == jnp.bfloat16
    expected = formula(*(np.asarray(tensor, np.float32) for tensor in tensors), head_dim=head_dim)
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(output.astype(jnp.float32), expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize("keys", [17, 2049, 5000])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_phantom_keys_have_no_weight(kernel: Kernel, keys: int, head_dim: int) -> None:
    """All true logits are about -40: next to them a single key of zeros, whose logit is 0, would have all."""
    random = np.random.default_rng(0)
    size = math.sqrt(40 / math.sqrt(head_dim))
    query = np.full((1, 5, 128), size, np.float32)
    key = random.normal(-size, 0.2, (1, keys + 7, 128)).astype(np.float32)
    value = random.uniform(0.5, 1.5, (1, keys + 7, 128))
    tensors = [np.asarray(jnp.asarray(each, jnp.bfloat16), np.float32) for each in (query, key, value)]
    true_key, true_value = (each[:, :keys] for each in tensors[1:])
    with_a_phantom = formula(
        tensors[0],
        *(np.pad(tensor, ((0, 0), (0, 1), (0, 0))) for tensor in (true_key, true_value)),
        head_dim=head_dim,
    )
    assert np.abs(with_a_phantom).max() < 1e-6
    output = kernel(*(jnp.asarray(each, jnp.bfloat16) for each in tensors), head_dim, keys)
    expected = formula(tensors[0], true_key, true_value, head_dim=head_dim)
    np.testing.assert_allclose(output.astype(jnp.float32), expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize("scale", [1, 20, 60, 90])
def test_sums_say_whether_a_maximum_was_needed(scale: float) -> None:
    """Logits up to `scale`, in base 2: those of up to 90 are exact without, whatever their sign."""
    query = jnp.zeros((1, 128, 128), jnp.bfloat16).at[..., 0].set(1)
    along = jnp.linspace(-1, 1, 512) * scale * math.sqrt(128) * math.log(2)
    key = jnp.zeros((1, 512, 128), jnp.bfloat16).at[0, :, 0].set(along.astype(jnp.bfloat16))
    value = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 512, 128)), jnp.bfloat16)
    output, sums = flash_attention(query, key, value, 128, 512, SIZES, interpret=True)
    assert is_exact(sums)
    tensors = (np.asarray(each, np.float32) for each in (query, key, value))
    np.testing.assert_allclose(output.astype(jnp.float32), formula(*tensors, head_dim=128), rtol=0, atol=2e-2)


@pytest.mark.parametrize("logit", [130, -130, math.nan])
def test_sums_say_where_a_maximum_is_needed(logit: float) -> None:
    """All logits of one query are this large, in base 2: its weights overflow, or all vanish."""
    query = jnp.zeros((1, 128, 128), jnp.bfloat16).at[0, 77, 0].set(logit * math.sqrt(128) * math.log(2))
    key = jnp.zeros((1, 300, 128), jnp.bfloat16).at[..., 0].set(1)
    value = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 300, 128)), jnp.bfloat16)
    _, sums = flash_attention(query, key, value, 128, 300, SIZES, interpret=True)
    assert not is_exact(sums)
    assert is_exact(sums.at[..., 77].set(1))
    shifted, _ = flash_attention(query, key, value, 128, 300, SIZES, running_maximum=True, interpret=True)
    mean = np.asarray(value, np.float32).mean(1)
    if not math.isnan(logit):
        np.testing.assert_allclose(shifted[:, 77].astype(jnp.float32), mean, rtol=0, atol=2e-2)
