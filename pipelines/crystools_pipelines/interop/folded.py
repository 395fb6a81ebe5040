"""Linear layers whose weight holds several equal blocks, each of which is split over devices on its own.

Split as the one matrix that the checkpoint holds, a device's share would straddle the blocks, and activations
would have to move between devices.
"""

from typing import ClassVar

import jax.numpy as jnp
import torch

from crystools_pipelines.interop.functional import as_jax, as_torch


def stored_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """The shape under which the checkpoint holds the parameter, which is its own unless it is folded."""
    return tuple(getattr(parameter, "stored_shape", parameter.shape))


def stored_axes(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """The order in which the parameter has the axes of what is stored, blocks told apart."""
    return tuple(getattr(parameter, "stored_axes", range(parameter.ndim)))


class _Folded(torch.nn.Module):
    axis: ClassVar[int]
    """Which axis of the Linear's weight has the blocks."""
    equation: ClassVar[str]
    """The product with the weight, as `jnp.einsum` takes it."""

    def __init__(self, linear: torch.nn.Linear, blocks: int) -> None:
        super().__init__()
        unfolded = linear.weight.detach().unflatten(self.axis, (blocks, -1))
        self.weight = torch.nn.Parameter(unfolded.movedim(self.axis, 0), requires_grad=False)
        others = (axis for axis in range(3) if axis != self.axis)
        self.weight.stored_shape = linear.weight.shape  # type: ignore[attr-defined]
        self.weight.stored_axes = (self.axis, *others)  # type: ignore[attr-defined]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        # By jax, because torch would make one matrix of the blocks again.
        output: torch.Tensor = as_torch(jnp.einsum(self.equation, as_jax(hidden), as_jax(self.weight)))
        return output


class FoldedOutputs(_Folded):
    """In place of a Linear without bias whose outputs are `blocks` blocks: weight `[blocks, out, in]`.

    Takes `[..., in]`, gives `[..., blocks, out]`.
    """

    axis, equation = 0, "...i,boi->...bo"


class FoldedInputs(_Folded):
    """In place of a Linear without bias whose inputs are `blocks` blocks: weight `[blocks, out, in]`.

    Takes `[..., blocks, in]`, gives `[..., out]`. Were blocks not first, as they are not in the checkpoint, a
    TPU would hold a layer's weight in tiles of few rows and rearrange it before each product.
    """

    axis, equation = 1, "...bi,boi->...o"
