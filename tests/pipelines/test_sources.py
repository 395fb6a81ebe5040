"""Weights that no file holds, made of those that one does, are loaded and kept like any others."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray
from safetensors.torch import save_file

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.run import started_run
from crystools_pipelines.runtime.residency import Identity, free_all, residency
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.loading import plan_state
from crystools_pipelines.weights.part import Part
from crystools_pipelines.weights.shapes import abstract_state
from crystools_pipelines.weights.source import Tensor, WeightSource
from crystools_pipelines.weights.stored import StoredWeights
from crystools_pipelines.weights.tensor_files import StoredTensor
from crystools_tpu import telemetry
from crystools_tpu.telemetry import ModelFreed

MESH = make_mesh(jax.devices()[:4], branches=1, widths=(8,))
RULES = ((r"layers\.layer\.weight", P("tensor", None)),)
DELTA = np.full((8, 8), 2**-9, np.float32)  # bfloat16 loses it beside a 1; four of them it keeps


@dataclass(frozen=True)
class Merged:
    """Another source's tensors, to one of which `scale` times DELTA is added."""

    base: WeightSource
    scale: float

    @property
    def identity(self) -> Hashable:
        return self.base.identity

    @property
    def merged(self) -> Hashable:
        return self.scale

    def stamp(self) -> Hashable:
        return self.base.stamp()

    def tensors(self) -> Mapping[str, Tensor]:
        tensors = self.base.tensors()
        return {**tensors, "layers.1.weight": _Sum(tensors["layers.1.weight"], self.scale)}


@dataclass(frozen=True)
class _Sum:
    base: Tensor
    scale: float
    shape: tuple[int, ...] = (8, 8)
    dtype: str = "BF16"
    is_floating: bool = True

    @property
    def merged(self) -> Hashable:
        return self.scale

    def read(self) -> NDArray[np.float32]:
        total: NDArray[np.float32] = self.base.read().astype(np.float32) + self.scale * DELTA
        return total


@dataclass(frozen=True)
class Made:
    """Tensors in memory."""

    arrays: dict[str, NDArray[Any]]
    identity: Hashable = "made"
    merged: None = None

    def __str__(self) -> str:
        return "what was made"

    def stamp(self) -> Hashable:
        return None

    def tensors(self) -> Mapping[str, Tensor]:
        return {name: _Held(array) for name, array in self.arrays.items()}


@dataclass(frozen=True)
class _Held:
    array: NDArray[Any]
    dtype: str = "F32"
    is_floating: bool = True
    merged: None = None
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.array.shape)

    def read(self) -> NDArray[Any]:
        return self.array


class MergingCheckpoint(Checkpoint):
    """A checkpoint whose weights are merged as they are read."""

    scale = 1.0

    def weights(self, component: str) -> WeightSource:
        return Merged(super().weights(component), self.scale)


def build(folder: Path | None = None) -> torch.nn.Module:
    """Three layers without bias, as one stack."""
    with torch.device("meta"):
        layers = torch.nn.ModuleList(torch.nn.Linear(8, 8, bias=False) for _ in range(3))
        return torch.nn.ModuleDict({"layers": ScannedLayers(layers)})


PART = Part("stack", build, RULES, dtype="bfloat16")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[MergingCheckpoint]:
    folder = tmp_path / "stack"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    ones = {f"layers.{layer}.weight": torch.ones(8, 8, dtype=torch.bfloat16) for layer in range(3)}
    save_file(ones, folder / "model.safetensors")
    free_all()
    yield MergingCheckpoint(tmp_path)
    free_all()


def middle_layer(weights: dict[str, jax.Array]) -> float:
    """The value of the layer that the delta goes to; the others are 1."""
    values = np.asarray(weights["layers.layer.weight"].astype(jnp.float32))
    assert (values[0] == 1).all()
    assert (values[2] == 1).all()
    (value,) = np.unique(values[1])
    return float(value)


def loaded(checkpoint: Checkpoint) -> dict[str, jax.Array]:
    """By a job, as a pipeline's stages have it."""
    with started_run("wan2.1-t2v", {}, checkpoint, MESH, parts=[PART]) as job:
        return job.load(PART).weights


def test_what_is_merged_in_float32_is_cast_as_it_is_loaded(checkpoint: MergingCheckpoint) -> None:
    checkpoint.scale = 4
    weights = loaded(checkpoint)
    assert weights["layers.layer.weight"].dtype == jnp.bfloat16
    assert middle_layer(weights) == 1 + 2**-7
    assert {shard.data.shape for shard in weights["layers.layer.weight"].addressable_shards} == {(3, 2, 8)}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where in the file each tensor was that was read."""
    made: list[int] = []
    read = StoredTensor.read

    def reading(tensor: StoredTensor) -> NDArray[Any]:
        made.append(tensor.offset_bytes)
        return read(tensor)

    monkeypatch.setattr(StoredTensor, "read", reading)
    return made


def test_of_another_scale_only_the_layer_is_read_that_it_changes(
    checkpoint: MergingCheckpoint, reads: list[int]
) -> None:
    weights, values, counts = [], [], []
    for checkpoint.scale in (4.0, 8.0, 8.0, 4.0):
        weights.append(loaded(checkpoint))
        values.append(middle_layer(weights[-1]))
        counts.append(len(reads))
    assert values == [1 + 2**-7, 1 + 2**-6, 1 + 2**-6, 1 + 2**-7]
    assert counts == [3, 4, 4, 5]
    assert reads[3] == reads[4] == reads[1]
    assert all(each is weights[0] for each in weights)
    (resident,) = residency.residents()
    assert resident.device_bytes["cpu:0"] == 3 * 2 * 8 * 2


def test_what_is_half_changed_leaves(
    checkpoint: MergingCheckpoint, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded(checkpoint)
    checkpoint.scale = 4.0
    with monkeypatch.context() as patch, telemetry.subscribe() as events:
        patch.setattr(_Sum, "read", lambda tensor: np.frombuffer(b""))
        with pytest.raises(ValueError, match="reshape"):
            loaded(checkpoint)
        (freed,) = [event for event in events.drain() if isinstance(event, ModelFreed)]
    assert (freed.component, freed.reason) == ("stack", "evicted")
    assert residency.residents() == ()
    assert first["layers.layer.weight"].is_deleted()
    assert middle_layer(loaded(checkpoint)) == 1 + 2**-7
    assert len(reads) == 6


def test_what_somebody_uses_is_not_changed_but_loaded_beside(checkpoint: MergingCheckpoint) -> None:
    module = build()
    shapes = abstract_state(module, MESH, RULES, "bfloat16")

    def load(scale: float, used: list[bool]) -> dict[str, jax.Array]:
        checkpoint.scale = scale
        source = checkpoint.weights("stack")
        identity = Identity("made", "stack", source.identity, "build", MESH, "bfloat16")
        plan = (module, plan_state(module, source, shapes))
        return residency.load(identity, source, lambda: plan, in_use=lambda: bool(used)).weights

    used = [True]
    first, second = load(4.0, used), load(8.0, [])
    assert (middle_layer(first), middle_layer(second)) == (1 + 2**-7, 1 + 2**-6)
    assert len(residency.residents()) == 2
    used.clear()


def test_the_same_scale_is_found_again_until_a_file_changes(checkpoint: MergingCheckpoint) -> None:
    first = loaded(checkpoint)
    assert loaded(checkpoint) is first
    file = Path(checkpoint.location) / "stack" / "model.safetensors"
    save_file({f"layers.{layer}.weight": torch.ones(8, 8) for layer in range(3)}, file)
    assert loaded(checkpoint) is not first
    assert first["layers.layer.weight"].is_deleted()
    assert len(residency.residents()) == 1


def test_a_source_needs_no_files(checkpoint: MergingCheckpoint) -> None:
    module = build()
    arrays = {f"layers.{layer}.weight": np.full((8, 8), layer, np.float32) for layer in range(3)}
    source = Made(arrays)
    shapes = abstract_state(module, MESH, RULES, "float32")
    identity = Identity("made", "stack", source.identity, "build", MESH, "float32")
    component = residency.load(
        identity, source, lambda: (module, plan_state(module, source, shapes)), in_use=lambda: False
    )
    np.testing.assert_array_equal(component.weights["layers.layer.weight"][:, 0, 0], [0, 1, 2])
    assert residency.holds(identity, source)
    assert not residency.holds(replace(identity, source="another"), source)


def test_an_error_names_the_source() -> None:
    module = build()
    source = Made({"layers.0.weight": np.zeros((8, 7), np.float32)})
    shapes = abstract_state(module, MESH, RULES, "float32")
    with pytest.raises(CheckpointError, match=r"^what was made does not fit .*has shape \[8, 7\]"):
        plan_state(module, source, shapes)


def test_the_stamp_of_files_changes_with_them(checkpoint: MergingCheckpoint) -> None:
    folder = Path(checkpoint.location) / "stack"
    source = StoredWeights(folder, "stack")
    before = source.stamp()
    assert source.stamp() == before
    (folder / "config.json").write_text('{"depth": 3}')
    assert source.stamp() != before
