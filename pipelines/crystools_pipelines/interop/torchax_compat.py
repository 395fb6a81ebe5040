"""torchax, imported so that it works with the installed torch and leaves torch's switches alone.

torchax 0.0.13 names operators of aten that later versions of torch no longer have, and so fails: those for
named tensors are gone since torch 2.13, `cholesky` and `qr` since 2.14. What its sources name and torch lacks
is declared first; nothing ever calls it. Where torch has everything nothing is done.
"""

import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

_COMMENT = re.compile(r"#.*")
_OPERATOR = re.compile(r"\baten\.(\w+(?:\.\w+)?)")

# Operators live as long as the library object that declared them.
_library = torch.library.Library("aten", "FRAGMENT")


def named_operators(package: str) -> set[str]:
    """The operators of aten, `name` or `name.overload`, that the sources of a package name."""
    spec = importlib.util.find_spec(package)  # which does not import it
    folders = [] if spec is None else spec.submodule_search_locations or []
    sources = (path.read_text() for folder in folders for path in Path(folder).rglob("*.py"))
    return {name for source in sources for name in _OPERATOR.findall(_COMMENT.sub("", source))}


def declare_missing(operators: Iterable[str], library: torch.library.Library, aten: Any) -> Iterator[str]:
    """Declares those that `aten` lacks, one after the other, and tells their names."""
    for operator in sorted(operators):
        name, _, overload = operator.partition(".")
        packet = getattr(aten, name, None)
        if packet is None or (overload and not hasattr(packet, overload)):
            schema = name if overload in ("", "default") else operator
            library.define(f"{schema}(Tensor self, str placeholder_for_torchax) -> Tensor")
            yield schema


DECLARED = tuple(declare_missing(named_operators("torchax"), _library, torch.ops.aten))
_mha_fastpath = torch.backends.mha.get_fastpath_enabled()

import torchax  # noqa: E402
import torchax.tensor  # noqa: E402

from crystools_pipelines.interop import lowerings  # noqa: E402

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
