"""What is previewed of a sampler's latents, what that costs, and that no latent is another for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray

from crystools_pipelines.flux2.pipeline import PIPELINE as FLUX2
from crystools_pipelines.flux2.pipeline import Prepared
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh import make_mesh, replicated
from crystools_pipelines.run import started_run
from crystools_pipelines.runtime import multistep
from crystools_pipelines.runtime.job import OnLatents
from crystools_pipelines.runtime.previews import Preview, preview_of_latents
from crystools_pipelines.runtime.programs import Component, Programs, abstract, compiler
from crystools_pipelines.runtime.stages import Step, StepCost, run_denoising
from crystools_pipelines.wan.wan21_t2v.pipeline import PIPELINE as WAN
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu.telemetry import RunReport

MESH = make_mesh(jax.devices()[:2], branches=1, widths=(2,))
REQUEST = Wan21Request("a cat", height=32, width=32, num_frames=9, num_inference_steps=3)


class Solver(NamedTuple):
    sample: Any


def double(weights: Any, solver: Solver, _input: None, _cache: None) -> Any:
    return Solver(weights["two"] * solver.sample), None, jnp.isfinite(solver.sample).all()


def halved(solver: Solver) -> jax.Array:
    return solver.sample[:1] / 2  # type: ignore[no-any-return]


@pytest.fixture
def compiles() -> list[str]:
    return []


@pytest.fixture
def denoise(tmp_path: Path, compiles: list[str]) -> Callable[..., tuple[Any, RunReport]]:
    """Four steps that double [1, 1], and the run's report."""
    weights = {"two": jax.device_put(np.float32(2), replicated(MESH))}
    compile_here = compiler("cpu", lambda function, *args: function(*args))

    def counted(traced: jax.stages.Traced, effort: int) -> Any:
        compiles.append(traced.fun_name)
        return compile_here(traced, effort)

    component: Component[None] = Component(None, Programs(abstract(weights), counted), weights)

    def run(on_latents: OnLatents | None, preview: Preview | None = halved) -> tuple[Any, RunReport]:
        with started_run("wan2.1-t2v", {}, Checkpoint(tmp_path), MESH, on_latents=on_latents) as job:
            solver = job.put(Solver(np.ones(2, np.float32)), job.everywhere)
            steps = [Step(double, StepCost(1.0, 1.0))] * 4
            solver = run_denoising(job, "transformer", component, solver, steps, (), preview=preview)
        return np.asarray(solver.sample).tolist(), job.run.report

    return run


def test_only_the_steps_that_are_asked_for_are_made_and_all_is_compiled_before_the_first(
    denoise: Callable[..., tuple[Any, RunReport]], compiles: list[str]
) -> None:
    steps: list[int] = []
    pictures: list[jax.Array] = []

    def every_second(preview: Callable[[], jax.Array]) -> None:
        steps.append(len(steps))
        if len(steps) % 2 == 0:
            pictures.append(preview())

    latents, report = denoise(every_second)
    assert latents == [16.0, 16.0]
    assert len(steps) == 4
    assert [np.asarray(picture).tolist() for picture in pictures] == [[2.0], [8.0]]
    assert compiles == ["preview_of_latents", "double"]
    (stage,) = report.stages
    assert (stage.recompiles, [step.compiled for step in stage.steps]) == (0, [True, False, False, False])
    denoise(every_second)
    assert compiles == ["preview_of_latents", "double"]


@pytest.mark.parametrize(("on_latents", "preview"), [(None, halved), (lambda _: None, None)])
def test_where_nobody_listens_or_nothing_is_to_be_seen_nothing_is_compiled(
    denoise: Callable[..., tuple[Any, RunReport]],
    compiles: list[str],
    on_latents: OnLatents | None,
    preview: Preview | None,
) -> None:
    latents, _ = denoise(on_latents, preview)
    assert (latents, compiles) == ([16.0, 16.0], ["double"])


def broken(solver: Solver) -> jax.Array:
    raise ValueError("no such latents")


def refuses(_preview: Callable[[], jax.Array]) -> None:
    raise ValueError("no such latents")


@pytest.mark.parametrize(("on_latents", "preview"), [(refuses, halved), (lambda make: make(), broken)])
def test_what_fails_is_one_warning_and_the_latents_are_the_same(
    denoise: Callable[..., tuple[Any, RunReport]],
    caplog: pytest.LogCaptureFixture,
    on_latents: OnLatents,
    preview: Preview,
) -> None:
    latents, report = denoise(on_latents, preview)
    assert latents == [16.0, 16.0]
    assert [step.finite for step in report.stages[0].steps] == [True] * 4
    assert caplog.messages == ["the latents could not be previewed: ValueError: no such latents"]


def test_wans_latents_are_equal_to_the_bit_with_previews_of_every_step_on_eight_devices(
    tiny_wan21: Path,
) -> None:
    checkpoint = Checkpoint(tiny_wan21)
    prepared = WAN.prepare(REQUEST, checkpoint)
    mesh = WAN.mesh(jax.devices(), checkpoint, REQUEST.branches)
    shape = REQUEST.branches, WAN.max_tokens, WAN.embedding_width(checkpoint)
    embeddings = np.random.default_rng(0).standard_normal(shape, np.float32)

    def denoised(on_latents: OnLatents | None) -> NDArray[np.float32]:
        parts = WAN.denoisers(mesh, prepared)
        with started_run(WAN.model, {}, checkpoint, mesh, parts, on_latents=on_latents) as job:
            return np.asarray(WAN.denoise(job, REQUEST, prepared, embeddings, None))

    pictures: list[jax.Array] = []
    with_previews = denoised(lambda preview: pictures.append(preview()))
    np.testing.assert_array_equal(with_previews, denoised(None))
    assert [picture.shape for picture in pictures] == [(1, 16, 1, 4, 4)] * 3
    assert len(pictures[0].devices()) == 8
    # At the end nothing is left to denoise: the estimate is the sample.
    np.testing.assert_allclose(pictures[-1], with_previews[:, :, :1], atol=1e-6)


def flux2_preview(request: Flux2Request, sigmas: list[float]) -> tuple[Preview, multistep.Schedule]:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=sigmas)
    prepared = Prepared(scheduler, multistep.tabulate(scheduler))
    preview = FLUX2.preview(request, prepared)
    assert preview is not None
    return preview, prepared.schedule


def test_flux2s_preview_is_the_estimate_as_the_image_that_its_tokens_make() -> None:
    request = Flux2Request("a cat", height=32, width=48)
    image = np.random.default_rng(0).standard_normal((1, 128, 2, 3), np.float32)
    noise, output = (each.reshape(1, 128, -1).swapaxes(1, 2) for each in (image + 4, np.full_like(image, 8)))
    preview, schedule = flux2_preview(request, sigmas=[0.5])
    state = multistep.advance(schedule, multistep.start(schedule, noise), jnp.asarray(output))
    np.testing.assert_allclose(preview(state), image, atol=1e-6)


def made_and_moved(preview: Preview, state: Any) -> tuple[float, int]:
    """The FLOPs that the program for a preview computes, and the bytes that go to the host."""
    program = jax.jit(preview_of_latents, static_argnums=0).lower(preview, {}, state).compile()
    moved = jax.eval_shape(preview, state)
    return (program.cost_analysis() or {}).get("flops", 0.0), moved.size * moved.dtype.itemsize


def test_at_full_size_a_preview_computes_nothing_and_moves_next_to_nothing() -> None:
    request = Wan21Request("a cat")
    latents: Any = jax.ShapeDtypeStruct(request.latent_shape, jnp.float32)
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    state = multistep.SolverState(step, latents, latents, (latents, latents))
    flops, moved_bytes = made_and_moved(multistep.first_frame, state)
    assert (flops, moved_bytes) == (0, 16 * 90 * 160 * 4)  # one of 21 frames of 720 x 1280: 0.9 MB
    cost = WAN.step_cost(published("wan2.1-t2v"), (2, *request.latent_shape[1:]), WAN.max_tokens)
    assert cost.moved_bytes(2) / moved_bytes > 30_000

    image = Flux2Request("a cat")
    tokens: Any = jax.ShapeDtypeStruct((1, 64 * 64, 128), jnp.float32)
    preview, _ = flux2_preview(image, sigmas=[1.0, 0.5])
    state = multistep.SolverState(step, tokens, tokens, (tokens, tokens))
    flops, moved_bytes = made_and_moved(preview, state)
    assert (flops, moved_bytes) == (0, 64 * 64 * 128 * 4)  # 1024 x 1024: 2.1 MB
    cost = FLUX2.step_cost(published("flux.2"), tokens.shape, FLUX2.max_tokens)
    assert cost.moved_bytes(2) / moved_bytes > 30_000


def published(model: str) -> Any:
    return MODELS[model].published()["transformer"]
