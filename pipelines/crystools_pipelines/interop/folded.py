"""Linear layers whose weight holds several equal blocks, each of which is split over devices on its own.

Split as the one matrix that the checkpoint holds, a device's share would straddle the blocks, and activations
would have to move between devices.
"""

import jax.numpy as jnp
import torch

from crystools_pipelines.interop.functional import as_jax, as_torch


def stored_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """The shape under which the checkpoint holds the parameter, which is its own unless it is folded."""
    return tuple(getattr(parameter, "stored_shape", parameter.shape))


def stored_axes(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """The order in which the parameter has the axes of what is stored, blocks told apart."""
    return tuple(getattr(parameter, "stored_axes", range(parameter.ndim)))


class FoldedOutputs(torch.nn.Module):
    """In place of a Linear without bias whose outputs are `blocks` blocks: weight `[blocks, out, in]`.

    Takes `[..., in]`, gives `[..., blocks, out]`.
    """

    def __init__(self, linear: torch.nn.Linear, blocks: int) -> None:
        super().__init__()
        self.weight = _fold(linear, 0, blocks)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return _product("...i,boi->...bo", hidden, self.weight)


class FoldedInputs(torch.nn.Module):
    """In place of a Linear without bias whose inputs are `blocks` blocks: weight `[blocks, out, in]`.

    Takes `[..., blocks, in]`, gives `[..., out]`. Were blocks not first, as they are not in the checkpoint, a
    TPU would hold a layer's weight in tiles of few rows and rearrange it before each product.
    """

    def __init__(self, linear: torch.nn.Linear, blocks: int) -> None:
        super().__init__()
        self.weight = _fold(linear, 1, blocks)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return _product("...bi,boi->...o", hidden, self.weight)


def _fold(linear: torch.nn.Linear, axis: int, blocks: int) -> torch.nn.Parameter:
    unfolded = linear.weight.detach().unflatten(axis, (blocks, -1))
    folded = torch.nn.Parameter(unfolded.movedim(axis, 0), requires_grad=False)
    folded.stored_shape = linear.weight.shape  # type: ignore[attr-defined]
    folded.stored_axes = (axis, *(other for other in range(3) if other != axis))  # type: ignore[attr-defined]
    return folded


def _product(equation: str, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    # By jax, because torch would make one matrix of the blocks again.
    product: torch.Tensor = as_torch(jnp.einsum(equation, as_jax(hidden), as_jax(weight)))
    return product
