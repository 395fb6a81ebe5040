"""Torch modules as pure functions of jax arrays, so that jax can trace, differentiate and compile them."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import torch

from crystools_pipelines.interop.torchax_compat import environment


def call(module: torch.nn.Module, state: Mapping[str, jax.Array], *args: Any, **kwargs: Any) -> Any:
    """`module(*args, **kwargs)` with `state` in place of its parameters and buffers.

    `state` maps the module's own names to arrays; arrays in `args` and `kwargs` reach the module as tensors,
    and tensors in what it returns come back as arrays. The module itself may be on the meta device.
    """
    env = environment()
    tensors, args, kwargs = env.j2t_iso((dict(state), args, kwargs))
    # In inference mode, as ComfyUI runs its nodes, torchax would meet operators that it has no lowering for.
    with env, torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        # Torch counts in int64 everywhere; with jax's default of 32 bits each such place would warn.
        warnings.filterwarnings("ignore", message="Explicitly requested dtype int64")
        output = torch.func.functional_call(module, tensors, args, kwargs)
    return env.t2j_iso(output)


def as_jax(value: Any) -> Any:
    """The arrays inside the tensors of `value`, for jax code called from within a module's `forward`."""
    return environment().t2j_iso(value)


def as_torch(value: Any) -> Any:
    """The tensors around the arrays of `value`: the inverse of `as_jax`."""
    return environment().j2t_iso(value)
