"""Weights go to their shards as the table says; whatever does not fit is said, all at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import ModelMixin
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray
from safetensors.torch import save_file

from crystools_pipelines.errors import CheckpointError, UnmatchedParametersError
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.parallel.sharding import Rules
from crystools_pipelines.weights.loading import State, plan_state
from crystools_pipelines.weights.shapes import abstract_state
from crystools_pipelines.weights.stored import StoredWeights

RULES = (
    (r"blocks\.layer\.weight", P("tensor", None)),
    (r"blocks\.layer\.bias", P("tensor")),
    (r"norm\..*", P()),
)
DEPTH = 3


class Model(torch.nn.Module):
    """Three linear layers and a norm, with a buffer that no checkpoint has."""

    def __init__(self, *, scanned: bool) -> None:
        super().__init__()
        with torch.device("meta" if scanned else "cpu"):
            layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(DEPTH))
            self.norm = torch.nn.LayerNorm(8)
        self.blocks = ScannedLayers(layers) if scanned else layers
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def stacked(self, name: str) -> NDArray[np.float32]:
        """One parameter of all layers."""
        return np.stack([self.state_dict()[f"blocks.{layer}.{name}"].numpy() for layer in range(DEPTH)])


@pytest.fixture
def saved(tmp_path: Path) -> Model:
    model = Model(scanned=False)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return model


class Partly32(Model, ModelMixin):  # type: ignore[misc]
    """As diffusers says that some parts stay in float32."""

    _keep_in_fp32_modules: ClassVar[Sequence[str]] = ["norm"]


def load(
    folder: Path, rules: Rules = RULES, dtype: str = "float32", module: torch.nn.Module | None = None
) -> State:
    mesh = make_mesh(jax.devices()[:4], branches=1, widths=(8,))
    module = module or Model(scanned=True)
    shapes = abstract_state(module, mesh, rules, dtype)
    return plan_state(module, StoredWeights(folder, "model"), shapes).load()


def test_the_layers_are_stacked_and_split(tmp_path: Path, saved: Model) -> None:
    weight = load(tmp_path)["blocks.layer.weight"]
    np.testing.assert_array_equal(weight, saved.stacked("weight"))
    assert isinstance(weight.sharding, NamedSharding)
    assert weight.sharding.spec == P(None, "tensor", None)
    assert {shard.data.shape for shard in weight.addressable_shards} == {(DEPTH, 2, 8)}


def test_some_parts_stay_in_float32(tmp_path: Path, saved: Model) -> None:
    state = load(tmp_path, dtype="bfloat16", module=Partly32(scanned=True))
    assert {name: array.dtype.name for name, array in state.items()} == {
        "blocks.layer.weight": "bfloat16",
        "blocks.layer.bias": "bfloat16",
        "norm.weight": "float32",
        "norm.bias": "float32",
        "table": "float32",
    }
    np.testing.assert_array_equal(state["blocks.layer.bias"], saved.stacked("bias").astype(jnp.bfloat16))


def test_buffers_come_from_the_module(tmp_path: Path, saved: Model) -> None:
    np.testing.assert_array_equal(load(tmp_path)["table"], [0, 1, 2, 3])


def test_all_parameters_without_a_rule_are_named(tmp_path: Path, saved: Model) -> None:
    with pytest.raises(UnmatchedParametersError) as error:
        load(tmp_path, rules=RULES[:1])
    assert error.value.names == ("norm.weight", "norm.bias", "blocks.layer.bias")


def test_all_tensors_that_do_not_fit_are_named(tmp_path: Path, saved: Model) -> None:
    tensors = saved.state_dict()
    del tensors["blocks.1.weight"], tensors["norm.bias"]
    tensors["blocks.2.bias"] = torch.zeros(7)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    for fault in (
        "blocks.1.weight is missing",
        "norm.bias is missing",
        "blocks.2.bias has shape [7], not [8]",
    ):
        assert fault in str(error.value)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no safetensors weights"):
        load(tmp_path)


def test_tied_parameters_are_found_under_either_name(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = torch.nn.Embedding(4, 2)
            self.inner = torch.nn.ModuleDict({"embed": self.shared})

    module = Tied()
    save_file({"inner.embed.weight": module.shared.weight.detach() + 1}, tmp_path / "model.safetensors")
    mesh = make_mesh(jax.devices()[:1], branches=1, widths=(1,))
    shapes = abstract_state(module, mesh, [(".*", P())], "float32")
    state = plan_state(module, StoredWeights(tmp_path, "tied"), shapes).load()
    np.testing.assert_array_equal(state["shared.weight"], (module.shared.weight + 1).detach())


def test_weights_in_several_files_are_found_by_their_index(tmp_path: Path, saved: Model) -> None:
    (tmp_path / "model.safetensors").unlink()
    halves: dict[str, dict[str, torch.Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for name, tensor in saved.state_dict().items():
        halves["a.safetensors" if name.startswith("norm") else "b.safetensors"][name] = tensor
    for file, tensors in halves.items():
        save_file(tensors, tmp_path / file)
    places = {name: file for file, tensors in halves.items() for name in tensors}
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    np.testing.assert_array_equal(load(tmp_path)["norm.weight"], saved.norm.weight.detach())
