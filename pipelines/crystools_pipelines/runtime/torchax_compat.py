"""torchax, imported so that it works with the installed torch and leaves torch's switches alone.

torchax 0.0.13 registers aten overloads for named tensors, which torch 2.13 no longer has, and so fails.
So the missing ones are declared first; nothing ever calls them. Where torch still has them nothing is done.
"""

import functools

import torch

_NAMED_TENSOR_OVERLOADS = (
    "all.dimname",
    "all.dimname_out",
    "index_add.dimname",
    "index_copy.dimname",
    "index_copy_.dimname",
    "index_fill.Dimname_Scalar",
    "index_fill.Dimname_Tensor",
    "index_fill_.Dimname_Scalar",
    "index_fill_.Dimname_Tensor",
    "norm.names_ScalarOpt_dim",
    "norm.names_ScalarOpt_dim_dtype",
    "norm.names_dtype_out",
    "norm.names_out",
    "prod.dim_Dimname",
    "std.correction_names",
    "std.correction_names_out",
    "std.names_dim",
    "std.names_out",
    "std_mean.correction_names",
    "std_mean.names_dim",
    "unbind.Dimname",
)

# Overloads live as long as the library object that declared them.
_library = torch.library.Library("aten", "FRAGMENT")


def _declare_missing_overloads() -> None:
    for qualified in _NAMED_TENSOR_OVERLOADS:
        name, overload = qualified.split(".")
        if overload not in getattr(torch.ops.aten, name).overloads():
            _library.define(f"{qualified}(Tensor self, str named_tensor_placeholder) -> Tensor")


_declare_missing_overloads()
_mha_fastpath = torch.backends.mha.get_fastpath_enabled()

import torchax  # noqa: E402
import torchax.tensor  # noqa: E402

from crystools_pipelines.runtime import lowerings  # noqa: E402

# torchax turns the fast path off on import, for every user of torch in the process.
torch.backends.mha.set_fastpath_enabled(_mha_fastpath)


@functools.cache
def environment() -> torchax.tensor.Environment:
    """Our own environment: nothing here depends on, or changes, torchax's default one.

    Made on first use, because making it starts jax's backend.
    """
    made = torchax.tensor.Environment()
    lowerings.register(made)
    return made
