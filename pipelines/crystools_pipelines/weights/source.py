"""Where a component's weights come from: a checkpoint's files, or what is made of another source's."""

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray


class Tensor(Protocol):
    """A tensor that is not read yet: its shape, and its dtype by the name that safetensors has for it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...

    @property
    def is_floating(self) -> bool:
        """Whether it is of a dtype that can be read."""

    @property
    def merged(self) -> Hashable:
        """What is added to what its file holds."""

    def read(self) -> NDArray[Any]:
        """The tensor, in any dtype of floating point. Raises CheckpointError where it cannot be read."""


class WeightSource(Protocol):
    """The tensors that a component's parameters are loaded from. Its `str` is what an error names."""

    @property
    def identity(self) -> Hashable:
        """What makes two sources the same, whatever their tensors hold at the moment."""

    def stamp(self) -> Hashable:
        """Changes when what is stored does. Raises CheckpointError where it is not there."""

    @property
    def merged(self) -> Hashable:
        """What is added to what is stored. A component in memory can take another, tensor by tensor."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by name, none of them read. Raises CheckpointError where the source is not whole."""
