"""A component's programs: compiled once for each shape, kept with the weights, gone with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystools_pipelines.parallel.mesh import make_mesh, replicated
from crystools_pipelines.runtime.component import QUICK_COMPILE, Component, compile_with

HERE = replicated(make_mesh(jax.devices()[:1], branches=1, widths=(1,)))


def scaled(factor: int, weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return factor * weights["w"] * x


def at_once(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


@pytest.fixture
def component() -> Component[None]:
    return Component(None, {"w": jax.device_put(np.float32(3), HERE)}, at_once)


def test_a_program_has_the_weights_and_takes_the_rest(component: Component[None]) -> None:
    program = component.compile(partial(scaled, 2), np.ones(4, np.float32), out_shardings=HERE)
    np.testing.assert_array_equal(program(np.arange(4, dtype=np.float32)), [0, 6, 12, 18])
    assert (program.outputs.shape, program.outputs.dtype) == ((4,), jnp.float32)


def test_it_is_compiled_once_for_a_function_and_a_shape(component: Component[None]) -> None:
    first = component.compile(partial(scaled, 2), np.ones(4, np.float32), out_shardings=HERE)
    assert component.compile(partial(scaled, 2), np.zeros(4, np.float32), out_shardings=HERE) is first
    others = [
        component.compile(partial(scaled, 3), np.ones(4, np.float32), out_shardings=HERE),
        component.compile(partial(scaled, 2), np.ones(5, np.float32), out_shardings=HERE),
        component.compile(partial(scaled, 2), np.ones(4, np.int32), out_shardings=HERE),
    ]
    assert first not in others
    assert component.compile(partial(scaled, 2), np.ones(4, np.float32), out_shardings=HERE) is first


def test_the_least_recently_used_of_five_goes(component: Component[None]) -> None:
    programs = [component.compile(partial(scaled, n), np.float32(1), out_shardings=HERE) for n in range(4)]
    assert component.compile(partial(scaled, 0), np.float32(1), out_shardings=HERE) is programs[0]
    component.compile(partial(scaled, 4), np.float32(1), out_shardings=HERE)
    assert component.compile(partial(scaled, 0), np.float32(1), out_shardings=HERE) is programs[0]
    assert component.compile(partial(scaled, 1), np.float32(1), out_shardings=HERE) is not programs[1]


def test_weights_and_programs_leave_together(component: Component[None]) -> None:
    program = component.compile(partial(scaled, 2), np.float32(1), out_shardings=HERE)
    component.free()
    assert component.weights["w"].is_deleted()
    with pytest.raises(RuntimeError, match="deleted"):
        program(np.float32(1))


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
