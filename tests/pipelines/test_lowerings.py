"""Group norms and enlargements are torch's, and devices that share the pixels go on sharing them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crystools_pipelines.cogvideox.decoder import decode
from crystools_pipelines.interop.functional import call

PICTURES = (2, 12, 6, 16)
VIDEO = (1, 12, 3, 6, 16)


def upsample(*factors: float) -> torch.nn.Module:
    return torch.nn.Upsample(scale_factor=factors)


def group_norm(affine: bool = True) -> torch.nn.Module:
    norm = torch.nn.GroupNorm(4, 12, affine=affine)
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 2)
    return norm.requires_grad_(False)


MODULES: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "group norm of pictures": (group_norm, PICTURES),
    "group norm of a video": (group_norm, VIDEO),
    "group norm without weights": (lambda: group_norm(affine=False), PICTURES),
    "pictures enlarged": (lambda: upsample(2, 2), PICTURES),
    "a video enlarged": (lambda: upsample(4, 1, 2), VIDEO),
}


@pytest.mark.parametrize("name", MODULES)
def test_they_are_torchs_and_no_device_gathers_the_pixels(name: str) -> None:
    build, shape = MODULES[name]
    module = build()
    values = 3 + np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = module(torch.from_numpy(values)).numpy()
    columns = PartitionSpec(*[None] * (len(shape) - 1), "x")
    sharding = NamedSharding(Mesh(np.asarray(jax.devices()), "x"), columns)
    state = {name: jnp.asarray(parameter.numpy()) for name, parameter in module.named_parameters()}
    compiled = (
        jax.jit(lambda array: call(module, state, array), out_shardings=sharding)
        .lower(jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding))
        .compile()
    )
    np.testing.assert_allclose(compiled(jax.device_put(values, sharding)), expected, rtol=1e-5, atol=1e-5)
    assert "all-gather" not in str(compiled.as_text())


def test_an_enlargement_by_another_factor_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"\(6, 16\) to \(9, 24\): not by whole factors"):
        call(upsample(1.5, 1.5), {}, jnp.zeros(PICTURES))


def test_cogvideoxs_decoder_gathers_no_pixels() -> None:
    """In a turn after the first, on eight devices that share the columns."""
    mesh = Mesh(np.asarray(jax.devices()), "x")
    split = NamedSharding(mesh, PartitionSpec(None, None, "x", None))
    past = NamedSharding(mesh, PartitionSpec(None, None, None, "x", None))
    with torch.device("meta"):
        decoder = AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4
        ).decoder
    weights = {
        name: jax.ShapeDtypeStruct(
            tuple(parameter.shape), np.float32, sharding=NamedSharding(mesh, PartitionSpec())
        )
        for name, parameter in decoder.named_parameters()
    }

    def decoded(latents: int, cache: Any) -> jax.stages.Lowered:
        turn = jax.ShapeDtypeStruct((latents, 2, 8, 16), np.float32, sharding=split)
        function = jax.jit(partial(decode, decoder, split), out_shardings=(split, past))
        return function.lower(weights, turn, cache)

    _, first = decoded(3, None).out_info
    cache = {
        name: jax.ShapeDtypeStruct(entry.shape, entry.dtype, sharding=past) for name, entry in first.items()
    }
    next_turn = decoded(2, cache)
    frames, again = next_turn.out_info
    assert frames.shape == (8, 16, 64, 3)
    assert {name: entry.shape for name, entry in again.items()} == {
        name: entry.shape for name, entry in cache.items()
    }
    assert "all-gather" not in str(next_turn.compile().as_text())
