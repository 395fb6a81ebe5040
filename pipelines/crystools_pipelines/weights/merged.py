"""Weights with LoRAs merged into them, tensor by tensor while they are read."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystools_pipelines.weights.lora import Delta, LoraFile, float32_of
from crystools_pipelines.weights.source import Tensor, WeightSource


@dataclass(frozen=True)
class Merge:
    """What a LoRA's file has for `section`, one of TRANSFORMERS, at this scale, which is not 0."""

    file: LoraFile
    section: str
    scale: float


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of another source with what LoRAs add to it."""

    base: Tensor
    added: tuple[tuple[Delta, float], ...]
    dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the other source's."""
        return self.base.shape

    @property
    def is_floating(self) -> bool:
        """Whether the other source's is."""
        return self.base.is_floating

    @property
    def merged(self) -> Hashable:
        """What is added, each with its scale."""
        return tuple((delta.stamp, scale) for delta, scale in self.added)

    def read(self) -> NDArray[Any]:
        """The sum, float32. Raises CheckpointError where something of it cannot be read."""
        total = float32_of(self.base.read())
        for delta, scale in self.added:
            delta.add_to(total, scale)
        summed: NDArray[np.float32] = total.numpy()
        return summed


@dataclass(frozen=True)
class MergedWeights:
    """Another source's tensors with LoRAs merged. It is the same source, of which other tensors are made."""

    base: WeightSource
    merges: tuple[Merge, ...]

    def __str__(self) -> str:
        return str(self.base)

    @property
    def identity(self) -> Hashable:
        """That of the other source: whatever is merged, the component remains the same."""
        return self.base.identity

    @property
    def merged(self) -> Hashable:
        """The LoRAs, each as its file is now. Raises RequestError for a file that is not there."""
        return tuple((merge.file.stamp(), merge.section, merge.scale) for merge in self.merges)

    def stamp(self) -> Hashable:
        """That of the other source."""
        return self.base.stamp()

    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by name. Raises RequestError for a LoRA that does not fit the other source's."""
        stored = self.base.tensors()
        added: dict[str, list[tuple[Delta, float]]] = {}
        for merge in self.merges:
            for parameter, deltas in merge.file.deltas[merge.section].items():
                name = _name_among(parameter, stored, merge.file, deltas)
                for delta in deltas:
                    if delta.shape != (wanted := tuple(stored[name].shape)):
                        raise merge.file.refusal(
                            f"has {delta.key}, which makes {list(delta.shape)} of {name}; in {self.base} it "
                            f"is {list(wanted)}: give a LoRA made for this model"
                        )
                    added.setdefault(name, []).append((delta, merge.scale))
        return {**stored, **{name: MergedTensor(stored[name], tuple(each)) for name, each in added.items()}}


def _name_among(parameter: str, stored: Mapping[str, Tensor], file: LoraFile, deltas: Sequence[Delta]) -> str:
    """The stored tensor's name. A parameter that is no module's weight has no such ending."""
    for name in (parameter, parameter.removesuffix(".weight")):
        if name in stored:
            return name
    raise file.unfit(deltas[0].key)
