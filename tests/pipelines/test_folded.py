"""A folded linear layer computes what the layer does, from the checkpoint's one tensor, split by block."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec as P
from safetensors.torch import save_model

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.interop.folded import FoldedInputs, FoldedOutputs
from crystools_pipelines.interop.functional import call
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel.mesh import TENSOR, make_mesh
from crystools_pipelines.weights.loading import plan_state
from crystools_pipelines.weights.shapes import abstract_state
from crystools_pipelines.weights.stored import StoredWeights

RULES = [
    ("layers.layer.up.weight", P(None, TENSOR, None)),
    ("layers.layer.down.weight", P(None, None, TENSOR)),
]


class Layer(torch.nn.Module):
    """Three blocks of eight between two products."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(4, 24, bias=False)
        self.down = torch.nn.Linear(24, 4, bias=False)

    def forward(self, *, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.down(self.up(hidden))
        return output


class Stack(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(), Layer()])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden=hidden)
        return hidden


def fold(stack: Stack, *, every: bool = False) -> Stack:
    for layer in stack.layers:
        layer.up, layer.down = FoldedOutputs(layer.up, 3), FoldedInputs(layer.down, 3)  # type: ignore[arg-type]
    stack.layers = ScannedLayers(stack.layers, carries=("hidden",), every=every)  # type: ignore[assignment]
    return stack


def test_blocks_are_split_and_the_result_is_the_same(tmp_path: Path) -> None:
    stack = Stack()
    save_model(stack, str(tmp_path / "model.safetensors"))
    hidden = torch.randn(1, 5, 4)
    with torch.no_grad():
        expected = stack(hidden)
        first = stack.layers[0](hidden=hidden)

    mesh = make_mesh(jax.devices()[:8], branches=1, widths=(8,))
    fold(stack)
    shapes = abstract_state(stack, mesh, RULES, "float32")
    state = plan_state(stack, StoredWeights(tmp_path, "stack"), shapes).load()
    weight = state["layers.layer.up.weight"]
    assert weight.shape == (2, 3, 8, 4)
    assert weight.addressable_shards[0].data.shape == (2, 3, 1, 4)
    assert state["layers.layer.down.weight"].shape == (2, 3, 4, 8)
    np.testing.assert_allclose(call(stack, state, hidden.numpy()), expected, atol=1e-6)

    every = call(fold(Stack(), every=True), state, hidden.numpy())
    np.testing.assert_allclose(every, torch.stack([first, expected]), atol=1e-6)


def test_a_tensor_of_another_shape_is_named_with_the_one_stored(tmp_path: Path) -> None:
    stack = Stack()
    save_model(stack, str(tmp_path / "model.safetensors"))
    for layer in stack.layers:
        layer.up = torch.nn.Linear(4, 48, bias=False)
    mesh = make_mesh(jax.devices()[:1], branches=1, widths=(1,))
    with pytest.raises(CheckpointError, match=r"layers\.0\.up\.weight has shape \[24, 4\], not \[48, 4\]"):
        fold(stack)
        plan_state(stack, StoredWeights(tmp_path, "stack"), abstract_state(stack, mesh, RULES, "float32"))
