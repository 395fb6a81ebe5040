"""A stack of identical layers as one `jax.lax.scan`, so that the compile does not grow with depth."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import torch
from jax.sharding import Mesh, NamedSharding

from crystools_pipelines.interop.functional import as_jax, as_torch, call
from crystools_pipelines.parallel import layout

State: TypeAlias = dict[str, jax.Array]
Hidden: TypeAlias = tuple[jax.Array, ...]
"""The hidden states that layers hand on, `[branch, token, channel]` each, without padding."""


class Run(Protocol):
    """Runs layers of a stack."""

    def __call__(
        self, hidden: Hidden, first: int = 0, last: int | None = None, branch: jax.Array | None = None
    ) -> Hidden:
        """The hidden states after the layers from `first` up to `last`.

        With a `branch` these are of that branch alone, and so is what else the layers are given.
        """


@dataclass(frozen=True)
class Stack:
    """A stack of layers about to run on `hidden`, for who runs it in another way (`running_stacks`)."""

    hidden: Hidden
    run: Run
    main_tokens: slice

    def main(self, hidden: Hidden) -> jax.Array:
        """Of hidden states those that the model's output is made of."""
        return hidden[-1][:, self.main_tokens]

    def with_main(self, hidden: Hidden, states: jax.Array) -> Hidden:
        """`hidden` with these instead."""
        *others, last = hidden
        whole = states.shape[1] == last.shape[1]
        return *others, states if whole else last.at[:, self.main_tokens].set(states)


_run_stack: ContextVar[Callable[[Stack], Hidden] | None] = ContextVar("run_stack", default=None)


@contextmanager
def running_stacks(run_stack: Callable[[Stack], Hidden]) -> Iterator[None]:
    """Within, `run_stack(stack)` gives the hidden states after each stack that a model comes to."""
    token = _run_stack.set(run_stack)
    try:
        yield
    finally:
        _run_stack.reset(token)


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

    `main_tokens` are those of the last hidden states that the model's output is made of.
    """

    def __init__(
        self,
        layers: torch.nn.ModuleList,
        mesh: Mesh | None = None,
        carries: tuple[str, ...] = (),
        every: bool = False,
        weights: Callable[[str], NamedSharding] | None = None,
        main_tokens: slice = slice(None),
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
        self._main_tokens = main_tokens

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
        in_tuple = len(self._carries) > 1

        def run_layer(others: tuple[Any, Any], hidden: Hidden, state: State) -> tuple[Hidden, Hidden | None]:
            args, kwargs = others
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

        def run(
            hidden: Hidden, first: int = 0, last: int | None = None, branch: jax.Array | None = None
        ) -> Hidden:
            others = (args, kwargs) if branch is None else _of_branch((args, kwargs), branch)
            counts = [states.shape[1] for states in hidden]
            hidden = tuple(map(self._padded, hidden))
            if (first, last) == (0, None):
                after, every = jax.lax.scan(partial(run_layer, others), hidden, state)
            else:  # slices of the stacked weights would be copies
                layers = jnp.arange(first, self.depth if last is None else last)
                run_numbered = partial(_run_numbered, partial(run_layer, others), state)
                after, every = jax.lax.scan(run_numbered, hidden, layers)
            if every is not None:
                return every
            return tuple(states[:, :count] for states, count in zip(after, counts, strict=True))

        run_stack = _run_stack.get()
        after = run(hidden) if run_stack is None else run_stack(Stack(hidden, run, self._main_tokens))
        outputs = as_torch(after)
        return outputs if in_tuple else outputs[0]

    def _padded(self, states: jax.Array) -> jax.Array:
        padding = 0 if self._mesh is None else -states.shape[1] % layout.tokens_multiple(self._mesh)
        return jnp.pad(states, ((0, 0), (0, padding), (0, 0))) if padding else states


def _run_numbered(
    run_layer: Callable[[Hidden, State], tuple[Hidden, Hidden | None]],
    state: State,
    hidden: Hidden,
    layer: jax.Array,
) -> tuple[Hidden, Hidden | None]:
    return run_layer(hidden, {name: stacked[layer] for name, stacked in state.items()})


def _of_branch(tree: Any, branch: jax.Array) -> Any:
    """That branch of the arrays that have several; all of the rest, whose first axis is one for all."""

    def one(array: Any) -> Any:
        several = isinstance(array, jax.Array) and array.ndim and array.shape[0] > 1
        return jax.lax.dynamic_slice_in_dim(array, branch, 1) if several else array

    return jax.tree.map(one, tree)
