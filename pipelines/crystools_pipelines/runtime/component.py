"""A component in the devices' memory: its module, its weights, and the programs compiled for them."""

import logging
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import jax

from crystools_pipelines.weights.loading import State

Module = TypeVar("Module")

_log = logging.getLogger(__name__)

# `with_room(function, *args)` is `function(*args)`, once more where that took more memory than there was.
WithRoom: TypeAlias = Callable[..., Any]

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
    """A compiled `function(weights, *args)`. `outputs` has the shapes of what it returns."""

    outputs: Any
    _compiled: jax.stages.Compiled
    _weights: State
    _with_room: WithRoom

    def __call__(self, *args: Any) -> Any:
        """What the function returns for arguments like those that it was compiled for."""
        return self._with_room(self._compiled, self._weights, *args)


@dataclass(frozen=True, eq=False)
class Component(Generic[Module]):
    """What a stage works with. The programs stay for the next run, and leave with the weights."""

    module: Module
    weights: State
    _with_room: WithRoom
    _programs: dict[Hashable, Program] = field(default_factory=dict)

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
        key = (identify(function), _signature((args, out_shardings)), donate, effort)
        program = self._programs.pop(key, None)
        if program is None:
            program = self._compile(function, args, out_shardings, donate, effort)
        self._programs[key] = program  # the least recently used come first
        while len(self._programs) > _MOST_PROGRAMS:
            del self._programs[next(iter(self._programs))]
        return program

    def free(self) -> None:
        """Gives the weights' memory back at once, even where a traceback or a cache still holds an array."""
        self._programs.clear()
        for array in self.weights.values():
            array.delete()

    def _compile(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        out_shardings: Any,
        donate: tuple[int, ...],
        effort: int,
    ) -> Program:
        traced = trace(function, self.weights, args, out_shardings, donate)
        some_weight = next(iter(self.weights.values()))
        (platform,) = {device.platform for device in some_weight.devices()}
        compiled = self._with_room(compile_with, traced.lower(), effort, platform)
        return Program(traced.out_info, compiled, self.weights, self._with_room)


def trace(
    function: Callable[..., Any], weights: Any, args: Any, out_shardings: Any, donate: tuple[int, ...]
) -> jax.stages.Traced:
    """`function(weights, *args)` traced for the devices that its arguments are on."""
    return jax.jit(function, donate_argnums=donate, out_shardings=out_shardings).trace(weights, *args)


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


def identify(function: Callable[..., Any]) -> Hashable:
    """A function is itself; a `partial` is its function with its arguments."""
    if isinstance(function, partial):
        return function.func, function.args, tuple(sorted(function.keywords.items()))
    return function


def _signature(tree: Any) -> Hashable:
    leaves, structure = jax.tree_util.tree_flatten(tree)
    return structure, tuple(map(_leaf_signature, leaves))


def _leaf_signature(leaf: Any) -> Hashable:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)
    return leaf  # type: ignore[no-any-return]
