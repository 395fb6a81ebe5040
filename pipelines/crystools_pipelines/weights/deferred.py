"""Tensors that diffusers' converters rename, split and scale while none of them is read.

A deferred tensor has the shape of what it will be, and remembers what was done to make it. It is read, and
the same is done, when its value is asked for. So a converter shows beforehand what a file would become, of
which of its tensors, and one tensor at a time can be made.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

Compute = Callable[[], torch.Tensor]

# What looks at the numbers, and so needs them at once.
_LOOKS = (torch.Tensor.item, torch.Tensor.__bool__)
_DEVICE = torch.Tensor.device.__get__


class Deferred(torch.Tensor):
    """Made by `deferred` alone, and by torch's functions of others."""

    value: Compute
    """Makes the tensor itself, anew each time."""
    names: frozenset[str]
    """The names of the tensors that it is made of."""
    looked_at: set[str]
    """Where the names of those are kept whose numbers were needed at once."""

    __slots__: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = (args, dict(kwargs or {}))
        if func == _DEVICE:
            return torch.device("cpu")  # where it will be: what is made beside it has numbers

        def compute() -> Any:
            real_args, real_kwargs = tree_map_only(Deferred, lambda tensor: tensor.value(), given)
            return func(*real_args, **real_kwargs)

        inputs = [each for each in tree_leaves(given) if isinstance(each, Deferred)]
        names = frozenset[str]().union(*(each.names for each in inputs))
        looked_at = inputs[0].looked_at
        if func in _LOOKS:
            looked_at |= names
            return compute()
        with torch._C.DisableTorchFunctionSubclass():
            shaped = func(*given[0], **given[1])

        def part(shape: torch.Tensor, index: int | None = None) -> Deferred:
            value = compute if index is None else lambda: compute()[index]
            return _made(shape, value, names, looked_at)

        if isinstance(shaped, torch.Tensor):
            return part(shaped)
        if isinstance(shaped, tuple | list) and all(isinstance(each, torch.Tensor) for each in shaped):
            return tuple(part(each, index) for index, each in enumerate(shaped))
        return shaped


def deferred(name: str, shape: tuple[int, ...], read: Compute, looked_at: set[str]) -> Deferred:
    """The float32 tensor of this name and shape that `read` will read."""
    return _made(torch.empty(shape, device="meta"), read, frozenset([name]), looked_at)


def value_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, which a converter may have made of none that is deferred."""
    return tensor.value() if isinstance(tensor, Deferred) else tensor


def names_of(tensor: torch.Tensor) -> frozenset[str]:
    """The names of the tensors that this one is made of."""
    return tensor.names if isinstance(tensor, Deferred) else frozenset()


def _made(shaped: torch.Tensor, value: Compute, names: frozenset[str], looked_at: set[str]) -> Deferred:
    with torch._C.DisableTorchFunctionSubclass():
        tensor: Deferred = shaped.detach().as_subclass(Deferred)
    tensor.value, tensor.names, tensor.looked_at = value, names, looked_at
    return tensor
