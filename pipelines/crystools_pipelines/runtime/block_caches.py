"""What the rules of step caching have a step compute: what it runs, what it keeps, what it takes instead.

They are those of diffusers' hooks (`diffusers.hooks`), which act at a transformer's blocks: what is before
and behind these, such as the embedding of patches and the last projection, runs in every step. Each function
here is a `caching` of `denoising_step`: of `predict()`, the outputs of the guidance branches, and of the
cache it makes the outputs, the cache for the next step and, where the device decides, which branches have
skipped.

What is kept of hidden states is split over the mesh like them (`begin_states`). A cache begins as zeros, so
that the first step has the same program as the others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from crystools_pipelines.interop.scan import Hidden, Stack, running_stacks
from crystools_pipelines.parallel import layout
from crystools_pipelines.parallel.mesh import DATA

Predict: TypeAlias = Callable[[], jax.Array]


def begin_states(mesh: Mesh, dtype: str, branches: int, tokens: int, width: int) -> jax.ShapeDtypeStruct:
    """What a cache keeps of hidden states of so many tokens: padded as they are between blocks."""
    padded = tokens + -tokens % layout.tokens_multiple(mesh)
    return jax.ShapeDtypeStruct((branches, padded, width), jnp.dtype(dtype), sharding=layout.tokens(mesh))


def _kept(mesh: Mesh, states: jax.Array) -> jax.Array:
    padding = -states.shape[1] % layout.tokens_multiple(mesh)
    padded = jnp.pad(states, ((0, 0), (0, padding), (0, 0))) if padding else states
    split: jax.Array = jax.lax.with_sharding_constraint(padded, layout.tokens(mesh))
    return split


class _Noting:
    """Runs all blocks, and notes by how much they have changed the hidden states."""

    def __init__(self) -> None:
        self._before: jax.Array | None = None
        self.residual: Any = None

    def __call__(self, stack: Stack) -> Hidden:
        if self._before is None:
            self._before = stack.main(stack.hidden)
        after = stack.run(stack.hidden)
        self.residual = stack.main(after) - self._before  # that of the last stack stays
        return after


class _Adding:
    """Runs no block, and changes the hidden states by a residual."""

    def __init__(self, residual: jax.Array) -> None:
        self._residual: jax.Array | None = residual

    def __call__(self, stack: Stack) -> Hidden:
        if self._residual is None:  # what the first stack gives passes through the next
            return stack.hidden
        main = stack.main(stack.hidden)
        changed = stack.with_main(stack.hidden, main + self._residual[:, : main.shape[1]])
        self._residual = None
        return changed


def note_residual(mesh: Mesh, predict: Predict, _residual: jax.Array) -> tuple[jax.Array, jax.Array]:
    """MagCache's step that runs: the cache is by how much the blocks have changed their input."""
    noting = _Noting()
    with running_stacks(noting):
        outputs = predict()
    return outputs, _kept(mesh, noting.residual)


def add_residual(predict: Predict, residual: jax.Array) -> tuple[jax.Array, jax.Array]:
    """MagCache's step that is skipped."""
    with running_stacks(_Adding(residual)):
        outputs = predict()
    return outputs, residual


class Calibration(NamedTuple):
    """The last residual, and the ratios of the steps so far, `[step, group]`."""

    residual: Any
    ratios: Any
    step: Any


def calibrate(mesh: Mesh, groups: int, predict: Predict, cache: Calibration) -> tuple[jax.Array, Calibration]:
    """A step that runs, and measures how much longer its tokens' residuals are than the last ones.

    The first has 1. The branches are as many `groups`, each with a ratio of its own.
    """
    noting = _Noting()
    with running_stacks(noting):
        outputs = predict()
    last = cache.residual[:, : noting.residual.shape[1]]
    length, last_length = (
        jnp.linalg.norm(each.astype(jnp.float32), axis=-1) for each in (noting.residual, last)
    )
    ratios = (length / (last_length + 1e-8)).reshape(groups, -1).mean(1)
    ratios = cache.ratios.at[cache.step].set(jnp.where(cache.step == 0, 1, ratios))
    return outputs, Calibration(_kept(mesh, noting.residual), ratios, cache.step + 1)


class FirstBlock(NamedTuple):
    """By how much the first block, and all others, changed their input when they last ran.

    `threshold` is here, so that one program serves any.
    """

    threshold: Any
    first: Any
    others: Any


class _Deciding:
    """Runs the first block; then the others, for those groups of branches for which it changed enough."""

    def __init__(self, mesh: Mesh, groups: int, cache: FirstBlock) -> None:
        self._mesh = mesh
        self._groups = groups
        self._cache = cache
        self._first_block: jax.Array | None = None
        self.skips: Any = None
        self._of_branches: Any = None
        self.first: Any = None
        self.others: Any = None

    def __call__(self, stack: Stack) -> Hidden:
        hidden = stack.hidden
        if self._first_block is None:
            hidden = stack.run(hidden, 0, 1)
            self._first_block = stack.main(hidden)
            self._decide(self._first_block - stack.main(stack.hidden))
            after = self._unless_skipped(stack, hidden, 1, lambda: self._changed(stack, hidden))
        else:
            after = self._unless_skipped(stack, hidden, 0, lambda: hidden)
        others = _kept(self._mesh, stack.main(after) - self._first_block)
        self.others = jnp.where(self._of_branches, self._cache.others, others)
        return after

    def _decide(self, residual: jax.Array) -> None:
        """By how far the first block's residual is from the last one."""
        residual = _kept(self._mesh, residual)
        last = self._cache.first
        apart, before = (
            jnp.abs(each.astype(jnp.float32)).reshape(self._groups, -1).sum(1)
            for each in (residual - last, last)
        )
        # A NaN is near everything, as it is for diffusers; only what has no last one runs whatever it is.
        self.skips = ~((apart / before > self._cache.threshold) | (before == 0))
        branches = residual.shape[0]
        self._of_branches = jnp.repeat(self.skips, branches // self._groups)[:, None, None]
        self.first = jnp.where(self._of_branches, last, residual)

    def _changed(self, stack: Stack, hidden: Hidden) -> Hidden:
        """`hidden`, after the first block, with what the others added when they last ran."""
        main = stack.main(hidden)
        return stack.with_main(hidden, main + self._cache.others[:, : main.shape[1]])

    def _unless_skipped(self, stack: Stack, hidden: Hidden, first: int, skip: Callable[[], Hidden]) -> Hidden:
        """The hidden states after the blocks from `first` on, `skip()` in branches that skip them.

        On devices that have both branches only those blocks run whose result is taken. Where the mesh gives
        each branch devices of its own, those of one that skips would have to wait for the other's anyway:
        there both run, and one result is not taken.
        """

        def run() -> Hidden:
            return stack.run(hidden, first)

        def run_one() -> Hidden:
            branch = jnp.argmin(self.skips)
            alone = tuple(jax.lax.dynamic_slice_in_dim(each, branch, 1) for each in hidden)
            after = stack.run(alone, first, branch=branch)
            return tuple(
                jax.lax.dynamic_update_slice_in_dim(skipped, one, branch, 0)
                for skipped, one in zip(skip(), after, strict=True)
            )

        def run_and_select() -> Hidden:
            return tuple(jnp.where(self._of_branches, *each) for each in zip(skip(), run(), strict=True))

        after: Hidden
        if self._groups == 1:
            after = jax.lax.cond(self.skips[0], skip, run)
        elif runs_apart(self._mesh, self._groups):
            after = jax.lax.switch((~self.skips).sum(), [skip, run_one, run])
        else:
            after = jax.lax.cond(self.skips.all(), skip, run_and_select)
        return after


def runs_apart(mesh: Mesh, groups: int) -> bool:
    """Whether one of two groups of branches can run while the other skips, and costs half of both."""
    return groups == 2 and int(mesh.shape[DATA]) == 1


def first_block(
    mesh: Mesh, groups: int, predict: Predict, cache: FirstBlock
) -> tuple[jax.Array, FirstBlock, jax.Array]:
    """FirstBlockCache's step. The branches are as many `groups`, each of which decides for itself."""
    deciding = _Deciding(mesh, groups, cache)
    with running_stacks(deciding):
        outputs = predict()
    return outputs, FirstBlock(cache.threshold, deciding.first, deciding.others), deciding.skips


class Taylor(NamedTuple):
    """The last outputs that were computed, by how much they change in a step, and how many steps ago.

    This is TaylorSeer's lite mode: of a transformer only the outputs are continued, and a skipped step runs
    nothing of it. The other mode continues the output of every attention, which takes two tensors like the
    hidden states for each: 2 * 2 * 40 of 1.5 GB, or 248 GB, for Wan2.1 14B at 720x1280 in 81 frames and
    bfloat16. The factors are of the run's dtype, by default that which diffusers keeps them in.
    """

    outputs: Any
    slope: Any
    age: Any


def taylor_update(predict: Predict, cache: Taylor) -> tuple[jax.Array, Taylor]:
    """TaylorSeer's step that runs."""
    outputs = predict()
    slope = (outputs - cache.outputs) / (cache.age + 1).astype(outputs.dtype)
    return outputs, Taylor(outputs, slope, jnp.zeros_like(cache.age))


def taylor_predict(_predict: Predict, cache: Taylor) -> tuple[jax.Array, Taylor]:
    """TaylorSeer's step that is skipped."""
    cache = cache._replace(age=cache.age + 1)
    return cache.outputs + cache.slope * cache.age.astype(cache.slope.dtype), cache
