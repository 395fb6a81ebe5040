"""A stack of identical layers as one `jax.lax.scan`, so that the compile does not grow with depth."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax.sharding import Mesh, NamedSharding

from crystools_pipelines.interop.functional import as_jax, as_torch, call
from crystools_pipelines.parallel import layout


class ScannedLayers(torch.nn.Module):
    """Stands in for a ModuleList of `depth` identical layers of the form `hidden = layer(hidden, ...)`.

    Its parameters are those of one layer, named `layer.<name>`; the arrays bound to them when it is called
    are stacked, `[depth, ...]`, except those in `shared`: what all layers have in common. Iterating yields
    itself once, so the owner's `for layer in layers` runs the whole stack.

    On a `mesh` hidden states `[branch, token, channel]` are split by tokens between layers, padded for that:
    layers may see more tokens than they were given, of which nothing may depend.

    `weights`, if given, makes of a parameter's name the sharding that it has while its layer runs. Such a
    stack is kept split over more of the mesh (`layout.at_rest`), and gathered layer by layer.

    Layers that take their hidden states by keyword name them in `carries`, in the order in which they return
    them. What a layer returns beyond its hidden states is dropped; but what comes in a tuple leaves in one,
    for its owner takes the first of it. With `every` the hidden states after each layer are returned, stacked
    `[depth, ...]`, instead of those after the last.
    """

    def __init__(
        self,
        layers: torch.nn.ModuleList,
        mesh: Mesh | None = None,
        carries: tuple[str, ...] = (),
        every: bool = False,
        weights: Callable[[str], NamedSharding] | None = None,
    ) -> None:
        super().__init__()
        self.layer = layers[0]
        self.depth = len(layers)
        own = set(map(id, layers[-1].parameters())) if self.depth > 1 else set()
        self.shared = {name for name, tensor in self.layer.named_parameters() if id(tensor) in own}
        self._mesh = mesh
        self._carries = carries
        self._every = every
        self.weights = weights

    def __iter__(self) -> Iterator["ScannedLayers"]:
        yield self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The hidden states after the last layer: one tensor, or a tuple where `carries` names several."""
        hidden: tuple[Any, ...] = tuple(kwargs.pop(name) for name in self._carries)
        if not self._carries:
            hidden, args = args[:1], args[1:]
        hidden, args, kwargs = as_jax((hidden, args, kwargs))
        state = as_jax(dict(self.layer.named_parameters(remove_duplicate=False)))
        shared = {name: state.pop(name) for name in self.shared}
        in_tuple = False

        def run_layer(
            hidden: tuple[jax.Array, ...], state: dict[str, jax.Array]
        ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...] | None]:
            if self._mesh is not None:
                hidden = jax.lax.with_sharding_constraint(hidden, layout.tokens(self._mesh))
            if self.weights is not None:
                at_work = {name: self.weights(name) for name in state}
                state = jax.lax.with_sharding_constraint(state, at_work)
            if self._carries:
                named = dict(zip(self._carries, hidden, strict=True))
                output = call(self.layer, state | shared, *args, **named, **kwargs)
            else:
                output = call(self.layer, state | shared, *hidden, *args, **kwargs)
            nonlocal in_tuple
            in_tuple = isinstance(output, tuple)
            outputs = output if in_tuple else (output,)
            hidden = outputs[: len(hidden)]
            return hidden, hidden if self._every else None

        counts = [states.shape[1] for states in hidden]
        last, every = jax.lax.scan(run_layer, tuple(map(self._padded, hidden)), state)
        if not self._every:
            last = tuple(states[:, :count] for states, count in zip(last, counts, strict=True))
        outputs = as_torch(every if self._every else last)
        return outputs if in_tuple else outputs[0]

    def _padded(self, states: jax.Array) -> jax.Array:
        padding = 0 if self._mesh is None else -states.shape[1] % layout.tokens_multiple(self._mesh)
        return jnp.pad(states, ((0, 0), (0, padding), (0, 0))) if padding else states
