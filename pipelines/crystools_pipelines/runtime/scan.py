"""A stack of identical layers as one `jax.lax.scan`, so that the compile does not grow with depth."""

from collections.abc import Iterator
from typing import Any

import jax
import torch
from jax.sharding import NamedSharding

from crystools_pipelines.runtime.functional import as_jax, as_torch, call


class ScannedLayers(torch.nn.Module):
    """Stands in for a ModuleList of `depth` identical layers of the form `hidden = layer(hidden, ...)`.

    Its parameters are those of one layer, named `layer.<name>`; the arrays bound to them when it is called
    are stacked, `[depth, ...]`. Iterating yields itself once, so the owner's `for layer in layers` runs
    the whole stack. `sharding`, if given, is asked of the hidden states between layers.
    """

    def __init__(self, layers: torch.nn.ModuleList, sharding: NamedSharding | None = None) -> None:
        super().__init__()
        self.layer = layers[0]
        self.depth = len(layers)
        self._sharding = sharding

    def __iter__(self) -> Iterator["ScannedLayers"]:
        yield self

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        stacked = dict(self.layer.named_parameters(remove_duplicate=False))
        args, kwargs = as_jax((args, kwargs))

        def run_layer(hidden: jax.Array, state: dict[str, jax.Array]) -> tuple[jax.Array, None]:
            if self._sharding is not None:
                hidden = jax.lax.with_sharding_constraint(hidden, self._sharding)
            return call(self.layer, state, hidden, *args, **kwargs), None

        last, _ = jax.lax.scan(run_layer, as_jax(hidden), as_jax(stacked))
        output: torch.Tensor = as_torch(last)
        return output
