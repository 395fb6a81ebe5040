"""A scanned stack computes what its layers compute one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec as P
from safetensors.torch import save_model

from crystools_pipelines.interop.functional import call
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.weights.loading import plan_state
from crystools_pipelines.weights.shapes import abstract_state
from crystools_pipelines.weights.stored import StoredWeights

DEPTH = 3


class Pair(torch.nn.Module):
    """Takes two hidden states by name and returns them in the other order, with something to drop."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.nn.Linear(4, 4)
        self.common = torch.nn.Linear(4, 4)

    def forward(self, *, a: Any, b: Any, scale: float) -> tuple[Any, Any, Any]:
        return b + scale * self.own(a), a + self.common(b), a


class Stack(torch.nn.Module):
    def __init__(self, *, share: bool) -> None:
        super().__init__()
        pairs = [Pair() for _ in range(DEPTH)]
        if share:
            for pair in pairs:
                pair.common = pairs[0].common
        self.layers: Any = torch.nn.ModuleList(pairs)

    def forward(self, a: Any, b: Any) -> tuple[Any, Any]:
        for layer in self.layers:
            b, a, *_ = layer(a=a, b=b, scale=0.5)
        return a, b


@pytest.mark.parametrize("share", [False, True])
def test_layers_may_carry_several_hidden_states_and_share_parameters(tmp_path: Path, share: bool) -> None:
    stack = Stack(share=share)
    save_model(stack, str(tmp_path / "model.safetensors"))
    a, b = torch.randn(2, 5, 4)
    with torch.no_grad():
        expected = stack(a, b)

    stack.layers = ScannedLayers(stack.layers, carries=("b", "a"))
    mesh = make_mesh(jax.devices()[:1], branches=1, widths=(1,))
    shapes = abstract_state(stack, mesh, [(".*", P())], "float32")
    state = plan_state(stack, StoredWeights(tmp_path, "stack"), shapes).load()
    depth = () if share else (DEPTH,)
    assert state["layers.layer.own.weight"].shape == (DEPTH, 4, 4)
    assert state["layers.layer.common.weight"].shape == (*depth, 4, 4)
    for actual, wanted in zip(call(stack, state, a.numpy(), b.numpy()), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-6)


class Doubling(torch.nn.Module):
    """One hidden state, returned as it is or first in a tuple, as versions of transformers differ in it."""

    def __init__(self, *, in_tuple: bool) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.in_tuple = in_tuple

    def forward(self, hidden: Any) -> Any:
        hidden = hidden + self.linear(hidden)
        return (hidden, None) if self.in_tuple else hidden


class Chain(torch.nn.Module):
    """Takes what its layers return as an owner that was written for them does."""

    def __init__(self, *, in_tuple: bool) -> None:
        super().__init__()
        self.layers: Any = torch.nn.ModuleList(Doubling(in_tuple=in_tuple) for _ in range(DEPTH))
        self.in_tuple = in_tuple

    def forward(self, hidden: Any) -> Any:
        for layer in self.layers:
            hidden = layer(hidden)[0] if self.in_tuple else layer(hidden)
        return hidden


@pytest.mark.parametrize("in_tuple", [False, True])
def test_a_stack_returns_a_tuple_where_its_layers_do(in_tuple: bool) -> None:
    chain = Chain(in_tuple=in_tuple)
    hidden = torch.randn(2, 5, 4)
    with torch.no_grad():
        expected = chain(hidden)
    names = dict(chain.layers[0].named_parameters())
    state = {
        f"layers.layer.{name}": jax.numpy.stack(
            [layer.get_parameter(name).detach().numpy() for layer in chain.layers]
        )
        for name in names
    }
    chain.layers = ScannedLayers(chain.layers)
    actual = call(chain, state, jax.numpy.asarray(hidden.numpy()))
    assert actual.shape == (2, 5, 4)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
