"""A component's programs: compiled once for each shape, without weights, and gone with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystools_pipelines.parallel.mesh import make_mesh, replicated
from crystools_pipelines.runtime.programs import (
    QUICK_COMPILE,
    Component,
    Program,
    Programs,
    abstract,
    compile_with,
    compiler,
    identify,
)

HERE = replicated(make_mesh(jax.devices()[:1], branches=1, widths=(1,)))


def scaled(factor: int, weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return factor * weights["w"] * x


def at_once(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def weights() -> dict[str, jax.Array]:
    return {"w": jax.device_put(np.float32(3), HERE)}


@pytest.fixture
def programs() -> Programs:
    return Programs(abstract(weights()), compiler("cpu", at_once))


def program_of(programs: Programs, factor: int, x: Any) -> Program:
    return programs.compile(partial(scaled, factor), x, out_shardings=HERE)


def test_a_program_takes_weights_and_the_rest(programs: Programs) -> None:
    program = program_of(programs, 2, np.ones(4, np.float32))
    np.testing.assert_array_equal(program(weights(), np.arange(4, dtype=np.float32)), [0, 6, 12, 18])
    assert program.outputs == jax.ShapeDtypeStruct((4,), jnp.float32, sharding=HERE)


def test_it_is_compiled_once_for_a_function_and_a_shape(programs: Programs) -> None:
    first = program_of(programs, 2, np.ones(4, np.float32))
    assert program_of(programs, 2, np.zeros(4, np.float32)) is first
    others = [
        program_of(programs, 3, np.ones(4, np.float32)),
        program_of(programs, 2, np.ones(5, np.float32)),
        program_of(programs, 2, np.ones(4, np.int32)),
    ]
    assert first not in others
    assert program_of(programs, 2, np.ones(4, np.float32)) is first


def test_the_least_recently_used_of_five_goes(programs: Programs) -> None:
    first = [program_of(programs, factor, np.float32(1)) for factor in range(4)]
    assert program_of(programs, 0, np.float32(1)) is first[0]
    program_of(programs, 4, np.float32(1))
    assert program_of(programs, 0, np.float32(1)) is first[0]
    assert program_of(programs, 1, np.float32(1)) is not first[1]


def test_it_is_compiled_before_the_weights_are_there_and_not_again(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = program_of(programs, 2, jax.ShapeDtypeStruct((4,), np.float32))
    component = Component(None, programs, weights())
    with monkeypatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", None)
        program = program_of(component.programs, 2, np.ones(4, np.float32))
    assert program is early
    np.testing.assert_array_equal(program(component.weights, np.ones(4, np.float32)), [6, 6, 6, 6])


def test_a_partial_of_partials_is_known_again() -> None:
    def step(rule: Callable[..., Any], x: float) -> Any:
        return rule(x)

    first, again, other = (identify(partial(step, partial(pow, factor))) for factor in (2, 2, 3))
    assert first == again
    assert hash(first) == hash(again)
    assert first != other


def test_weights_and_programs_leave_together(programs: Programs) -> None:
    program = program_of(programs, 2, np.float32(1))
    component = Component(None, programs, weights())
    component.free()
    assert component.weights["w"].is_deleted()
    with pytest.raises(RuntimeError, match="deleted"):
        program(component.weights, np.float32(1))
    assert program_of(programs, 2, np.float32(1)) is not program


def lowered() -> jax.stages.Lowered:
    return jax.jit(lambda x: 2 * x).lower(np.float32(1))


def test_a_quick_compile_asks_for_a_level_that_this_compiler_has(caplog: pytest.LogCaptureFixture) -> None:
    assert compile_with(lowered(), QUICK_COMPILE, "cpu")(np.float32(3)) == 6
    assert not caplog.messages


def test_options_that_a_compiler_does_not_have_are_left_out_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert compile_with(lowered(), 0, "tpu")(np.float32(3)) == 6  # a CPU's has none of a TPU's
    assert caplog.messages == [
        f"this compiler has no option {name}: a compile or a step may take longer"
        for name in ("xla_tpu_scoped_vmem_limit_kib", "xla_tpu_enable_async_all_to_all")
    ]


@pytest.mark.parametrize(
    "message", ["RESOURCE_EXHAUSTED: out of memory", "INVALID_ARGUMENT: No such compile option: 'not_ours'"]
)
def test_what_else_a_compiler_refuses_is_raised(message: str) -> None:
    class Refusing:
        def compile(self, compiler_options: dict[str, Any]) -> Any:
            raise jax.errors.JaxRuntimeError(message)

    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        compile_with(cast(jax.stages.Lowered, Refusing()), QUICK_COMPILE, "cpu")
