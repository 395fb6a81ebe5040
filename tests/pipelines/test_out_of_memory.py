"""XLA's out-of-memory errors: recognised by their texts, met once, then said in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from crystools_pipelines.errors import OutOfMemoryError
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.run import generate, started_run
from crystools_pipelines.runtime.job import params_of
from crystools_pipelines.runtime.out_of_memory import Shortage, shortage
from crystools_pipelines.runtime.residency import free_all, residency
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu import telemetry
from crystools_tpu.telemetry import ModelFreed, StageName, Status

REQUEST = Wan21Request("a cat", height=32, width=32, num_frames=5, num_inference_steps=1, guidance_scale=1.0)
GIB = 2**30

COMPILE_TIME = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (49.00G) "
    "exceeds available HBM (31.25G)."
)


@pytest.fixture(autouse=True)
def nothing_resident() -> Iterator[None]:
    """Each test begins and ends with no model in memory."""
    free_all()
    yield
    free_all()


@pytest.mark.parametrize(
    ("text", "wanted", "available"),
    [
        (COMPILE_TIME, 49 * GIB, 31.25 * GIB),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 21.50G of 15.50G hbm. Exceeded hbm capacity by 6.00G.\n\nTotal hbm usage >= 22.02G:",
            21.5 * GIB,
            15.5 * GIB,
        ),
        (
            "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 196.00M. That was "
            "not possible. There are 60.50M free.; (0x0x0_HBM0)",
            196 * 2**20,
            60.5 * 2**20,
        ),
        (
            "RESOURCE_EXHAUSTED: Attempting to reserve 10.50G at the bottom of memory. That was not "
            "possible. There are 8.25G free, 0B reserved, and 8.25G reservable.",
            10.5 * GIB,
            8.25 * GIB,
        ),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.", 16 * GIB, None),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2.50GiB.", 2.5 * GIB, None),
        ("RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of HBM.", None, None),
    ],
)
def test_the_bytes_are_read_from_the_text(text: str, wanted: float | None, available: float | None) -> None:
    assert shortage(jax.errors.JaxRuntimeError(text)) == Shortage(wanted, available)  # type: ignore[arg-type]


def test_a_real_error_is_recognised() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jnp.zeros((2**50,), jnp.int8).block_until_ready()
    assert shortage(error.value) == Shortage(2**50, None)


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("INVALID_ARGUMENT: executable is built for device CPU:1"),
        jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem while allocating on stack"
        ),
        RuntimeError(COMPILE_TIME),
    ],
)
def test_other_errors_are_none_of_these(error: Exception) -> None:
    assert shortage(error) is None


@pytest.fixture
def failing_compiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The compiles of a denoise stage whose numbers, from 1, are in this list fail."""
    failing: list[int] = []
    compile_ = jax.stages.Lowered.compile
    count = 0

    def fail(lowered: jax.stages.Lowered, *args: Any, **kwargs: Any) -> jax.stages.Compiled:
        nonlocal count
        running = [stage for run in telemetry.history.reports()[:1] for stage in run.stages[-1:]]
        if any(stage.name == StageName.DENOISE for stage in running):
            count += 1
            if count not in failing:
                return compile_(lowered, *args, **kwargs)
            raise jax.errors.JaxRuntimeError(COMPILE_TIME)
        return compile_(lowered, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    return failing


def test_what_is_idle_makes_room_and_the_compile_is_tried_once_more(
    tiny_wan21: Path, failing_compiles: list[int]
) -> None:
    failing_compiles.append(1)
    with telemetry.subscribe() as events:
        generation = generate(REQUEST, checkpoint=tiny_wan21, devices=1)
        freed = [event for event in events.drain() if isinstance(event, ModelFreed)]
    assert generation.report.status == Status.SUCCEEDED
    assert [(event.run_id, event.component, event.reason) for event in freed] == [
        (generation.report.run_id, "text_encoder", "out_of_memory")
    ]
    size = telemetry.size_label(freed[0].freed_bytes)
    assert generation.report.warnings == (
        f"freed text_encoder of {tiny_wan21}, {size}, to try once more what had run out of memory",
    )
    assert [resident.component for resident in residency.residents()] == ["transformer", "vae"]


def test_the_second_time_it_is_said_in_words(tiny_wan21: Path, failing_compiles: list[int]) -> None:
    failing_compiles += [1, 2]
    with pytest.raises(OutOfMemoryError) as error:
        generate(REQUEST, checkpoint=tiny_wan21, devices=1)
    assert str(error.value) == (
        "denoise: out of device memory (49.00 GiB wanted, 31.25 GiB available on one device); try fewer "
        "frames (num_frames is 5) or a smaller height and width (now 32 x 32) or more devices (now 1)"
    )
    assert (error.value.wanted_bytes, error.value.available_bytes) == (49 * GIB, 31.25 * GIB)
    report = telemetry.history.reports()[0]
    assert report.status == Status.FAILED
    assert report.error == f"OutOfMemoryError: {error.value}"


def test_a_step_is_tried_again_while_its_inputs_exist() -> None:
    calls = []

    def step(latents: jax.Array) -> jax.Array:
        calls.append(latents)
        if len(calls) == 1:
            raise jax.errors.JaxRuntimeError(COMPILE_TIME)
        return latents + 1

    assert residency.retry_out_of_memory(step, jnp.float32(1)) == 2
    assert len(calls) == 2


def test_a_step_whose_inputs_were_given_away_is_not_tried_again() -> None:
    calls = []

    def step(latents: jax.Array) -> None:
        calls.append(latents)
        latents.delete()  # as a program does with what was donated to it
        raise jax.errors.JaxRuntimeError(COMPILE_TIME)

    with pytest.raises(jax.errors.JaxRuntimeError):
        residency.retry_out_of_memory(step, jnp.ones(2))
    assert len(calls) == 1


def test_an_error_that_comes_with_the_output_is_said_in_words(tiny_wan21: Path) -> None:
    class Output:
        def block_until_ready(self) -> None:
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 4.00G. That was "
                "not possible. There are 2.50G free.; (0x0x0_HBM0)"
            )

    with pytest.raises(OutOfMemoryError, match=r"^vae_decode: .*4\.00 GiB wanted, 2\.50 GiB available"):
        mesh = make_mesh(jax.devices()[:1], branches=1, widths=())
        with started_run("wan2.1-t2v", params_of(REQUEST), Checkpoint(tiny_wan21), mesh) as job:
            with job.run.stage(StageName.VAE_DECODE) as stage:
                stage.step(Output())
