"""A component's programs: compiled from shapes, run with weights that are loaded whenever it suits."""

import logging
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import jax

from crystools_pipelines.weights.loading import State
from crystools_pipelines.weights.shapes import Shapes

Module = TypeVar("Module")

_log = logging.getLogger(__name__)

# Takes a traced function and how hard XLA is to try; gives what runs it.
Compile: TypeAlias = Callable[[jax.stages.Traced, int], Callable[..., Any]]

# XLA's O1; 0 leaves the level to XLA, which takes O2. One convolution of Wan's VAE at 720p for a v6e took
# 18.3 s of CPU at O2 and came to 8.7 M cycles by the compiler's own estimate, at O1 3.0 s and 9.7 M, at O0
# (9) 1.3 s and 14.7 M.
QUICK_COMPILE = 19

# What a TPU's programs gain by, by the compiler's own estimate of Wan2.1's step on v6e-8: matrix products may
# use half of the vector memory, 0.61 s instead of 0.76; exchanges of tokens for heads run beside the
# projections, 0.09 s instead of 0.17.
_TPU_OPTIONS: dict[str, Any] = {
    "xla_tpu_scoped_vmem_limit_kib": "65536",
    "xla_tpu_enable_async_all_to_all": "true",
}

_UNKNOWN_OPTION = re.compile(r"No such compile option:? '?(\w+)")

# A program takes room on the device. Four are both programs of a VAE at two sizes.
_MOST_PROGRAMS = 4


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled `function(weights, *args)`. `outputs` has the shapes of what it returns, with shardings."""

    outputs: Any
    _run: Callable[..., Any]

    def __call__(self, weights: Any, *args: Any) -> Any:
        """What the function returns for weights and arguments like those that it was compiled for."""
        return self._run(weights, *args)


@dataclass(frozen=True, eq=False)
class Programs:
    """The programs of one component, whose weights are of these shapes. None of them holds a weight."""

    weights: Shapes
    _compile: Compile
    _kept: dict[Hashable, Program] = field(default_factory=dict)

    def compile(
        self,
        function: Callable[..., Any],
        *args: Any,
        out_shardings: Any,
        donate: tuple[int, ...] = (),
        effort: int = 0,
    ) -> Program:
        """`function(weights, *args)` compiled for arguments like `args`, or as it was compiled before.

        `function` is a module's function, or a partial of one with hashable arguments: by it the program is
        found again. `donate` numbers the arguments whose memory the outputs may take; `weights` is number 0.
        `effort` is how hard XLA tries to make it fast, one of its levels.
        """
        shapes = abstract(args)
        key = (identify(function), signature((shapes, out_shardings)), donate, effort)
        program = self._kept.pop(key, None)
        if program is None:
            jitted = jax.jit(function, donate_argnums=donate, out_shardings=out_shardings)
            traced = jitted.trace(self.weights, *shapes)
            program = Program(abstract(traced.out_info), self._compile(traced, effort))
        self._kept[key] = program  # the least recently used come first
        while len(self._kept) > _MOST_PROGRAMS:
            del self._kept[next(iter(self._kept))]
        return program

    def clear(self) -> None:
        """Lets go of all of them."""
        self._kept.clear()


@dataclass(frozen=True, eq=False)
class Component(Generic[Module]):
    """A component in the devices' memory: its module, its weights, and the programs that run with them.

    The programs stay for the next run, and leave with the weights.
    """

    module: Module
    programs: Programs
    weights: State

    def free(self) -> None:
        """Gives the weights' memory back at once, even where a traceback or a cache still holds an array."""
        self.programs.clear()
        for array in self.weights.values():
            array.delete()


def compiler(platform: str, retry: Callable[..., Any]) -> Compile:
    """Compiles for devices of this platform, and runs there.

    Both by way of `retry(function, *args)`: `function(*args)`, once more where memory did not suffice.
    """

    def compile_traced(traced: jax.stages.Traced, effort: int) -> Callable[..., Any]:
        return partial(retry, retry(compile_with, traced.lower(), effort, platform))

    return compile_traced


def compile_with(lowered: jax.stages.Lowered, effort: int, platform: str) -> jax.stages.Compiled:
    """Compiles as hard as `effort` says. Options that this compiler does not have are left out."""
    options: dict[str, Any] = {}
    if effort:
        options["optimization_level"] = effort
    elif platform == "tpu":
        options |= _TPU_OPTIONS
    while True:
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            unknown = _UNKNOWN_OPTION.search(str(error))
            if unknown is None or options.pop(unknown[1], None) is None:
                raise
            _log.warning("this compiler has no option %s: a compile or a step may take longer", unknown[1])


def identify(function: Any) -> Hashable:
    """A function is itself; a `partial` is its function with its arguments, which may be such, too."""
    if isinstance(function, partial):
        named = tuple((name, identify(value)) for name, value in sorted(function.keywords.items()))
        return function.func, tuple(map(identify, function.args)), named
    return function  # type: ignore[no-any-return]


def abstract(tree: Any) -> Any:
    """The shapes of a tree's arrays, with the shardings of those that are to stay where they are."""

    def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(leaf, "sharding", None) if getattr(leaf, "committed", True) else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape_of, tree)


def signature(tree: Any) -> Hashable:
    """A tree of hashable leaves, hashable itself."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(leaves)
