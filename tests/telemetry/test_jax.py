"""With the real jax: compiles, recompiles, NaN, device time and memory, each at the place it belongs to."""

from __future__ import annotations

import gc
import logging
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.telemetry.conftest import Bench


@jax.jit
def denoise_step(latents: jax.Array) -> tuple[jax.Array, jax.Array]:
    latents = jnp.tanh(latents @ latents)
    return latents, jnp.isfinite(latents).all()


def latents_of(size: int) -> jax.Array:
    latents: jax.Array = jax.device_put(np.full((size, size), 0.01, np.float32), jax.devices()[0])
    return latents


@contextmanager
def compilation_cache_at(folder: Path | None) -> Iterator[None]:
    """The persistent cache there, for the shortest compile too; None for no cache."""
    settings = {
        "jax_compilation_cache_dir": None if folder is None else str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def _fresh_compiles() -> Iterator[None]:
    jax.clear_caches()
    with compilation_cache_at(None):
        yield


def test_the_step_in_which_the_compile_fell_is_marked_and_left_out(bench: Bench) -> None:
    latents = latents_of(16)
    with bench.real_time_run() as run, run.stage("denoise") as stage:
        for _ in range(4):
            latents, done = denoise_step(latents)
            stage.step(done)
    (report,) = run.report.stages
    assert [step.compiled for step in report.steps] == [True, False, False, False]
    assert report.step_seconds is not None
    assert report.step_seconds.max == max(step.seconds for step in report.steps[1:])
    assert report.recompiles == 0
    assert report.compile_cache == "off"
    compiled = bench.next("compile_finished")
    record = compiled.record
    assert (record.function, record.cache, compiled.recompile) == ("jit(denoise_step)", "off", False)
    assert report.compiles == (record,)
    began = record.finished_unix_seconds - record.seconds
    assert report.started_unix_seconds <= began < record.finished_unix_seconds


def test_trace_lowering_and_backend_are_counted_once_within_the_stage_that_caused_them(bench: Bench) -> None:
    with bench.real_time_run() as run:
        with run.stage("load"):
            pass
        with run.stage("denoise") as stage:
            _, done = denoise_step(latents_of(16))
            stage.step(done)
    load, denoise = run.report.stages
    assert (load.compile_seconds, load.compile_cache) == (0, None)
    assert denoise.seconds is not None
    assert 0 < denoise.compile_seconds <= denoise.seconds


def test_a_shape_change_in_mid_stage_is_one_recompile_with_its_reason(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), bench.real_time_run() as run, run.stage("denoise") as stage:
        for size in (16, 16, 8, 8):
            _, done = denoise_step(latents_of(size))
            stage.step(done)
    (report,) = run.report.stages
    assert [step.compiled for step in report.steps] == [True, False, True, False]
    assert report.recompiles == 1
    assert report.recompile_reasons == ("at latents, now f32[8,8] and before f32[16,16]",)
    assert caplog.text == "", "jax's explanation is for the report, not for the user's log"


def test_several_compiles_in_one_step_are_one_recompile(bench: Bench) -> None:
    with bench.real_time_run() as run, run.stage("denoise") as stage:
        for size in (16, 16, 8):
            latents = latents_of(16)[:size, :size]
            _, done = denoise_step(latents)
            stage.step(done)
    (report,) = run.report.stages
    assert report.recompiles == 1
    assert "at latents, now f32[8,8] and before f32[16,16]" in report.recompile_reasons[0]
    recompiles = [e for e in bench.events.drain() if e.type == "compile_finished" and e.recompile]
    assert len(recompiles) == 1


def test_the_users_own_explanations_stay_in_their_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with (
        jax.explain_cache_misses(True),
        caplog.at_level(logging.WARNING),
        bench.real_time_run() as run,
        run.stage("denoise"),
    ):
        denoise_step(latents_of(16))
    assert "TRACING CACHE MISS" in caplog.text


def test_a_compile_outside_any_stage_belongs_to_nobody(bench: Bench) -> None:
    with bench.real_time_run() as run:
        denoise_step(latents_of(16))
        with run.stage("denoise"):
            pass
    assert run.report.stages[0].compile_seconds == 0


def test_the_persistent_cache_is_seen_to_miss_and_then_to_hit(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    with compilation_cache_at(tmp_path):
        for _ in range(2):
            jax.clear_caches()
            with bench.real_time_run() as run, run.stage("denoise"):
                denoise_step(latents_of(16))[1].block_until_ready()
            found.append(run.report.stages[0].compile_cache)
    assert found == ["miss", "hit"]
    assert caplog.text == ""


def test_a_nan_is_reported_at_the_step_where_it_appeared(bench: Bench) -> None:
    poison = {3: np.float32(np.nan)}

    @jax.jit
    def step(latents: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
        latents = latents * factor
        return latents, jnp.isfinite(latents).all()

    latents = latents_of(4)
    with bench.real_time_run() as run, run.stage("denoise") as stage:
        for i in range(5):
            latents, done = step(latents, poison.get(i, np.float32(1)))
            stage.step(done)
    (report,) = run.report.stages
    assert report.first_nonfinite_step == 3
    assert [step.finite for step in report.steps] == [True, True, True, False, False]


def test_a_step_slowed_on_the_device_is_longer_by_that_much(bench: Bench) -> None:
    slow_by_seconds = 0.25

    def device_sleep(x: np.ndarray[Any, Any], seconds: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        time.sleep(float(seconds))
        return x

    @jax.jit
    def step(latents: jax.Array, seconds: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = jax.ShapeDtypeStruct(latents.shape, latents.dtype)
        latents = jax.pure_callback(device_sleep, shape, latents, seconds)
        return latents, jnp.isfinite(latents).all()

    latents = latents_of(4)
    with bench.real_time_run() as run, run.stage("denoise") as stage:
        for i in range(9):
            latents, done = step(latents, np.float32(slow_by_seconds if i == 5 else 0))
            stage.step(done)
    (report,) = run.report.stages
    assert report.step_seconds is not None
    moved = report.steps[5].seconds - report.step_seconds.median
    assert moved == pytest.approx(slow_by_seconds, abs=0.1)


def test_memory_is_counted_by_live_arrays_where_the_backend_keeps_no_count(bench: Bench) -> None:
    device = jax.devices()[0]
    with bench.real_time_run(devices=[device]) as run:
        with run.stage("load"):
            weights = latents_of(512)
        with run.stage("denoise"):
            pass
    load, denoise = (stage.hbm[0] for stage in run.report.stages)
    assert (load.device, load.method, load.limit_bytes) == ("cpu:0", "live_arrays", None)
    assert load.after_bytes - load.before_bytes == weights.nbytes == 1024 * 1024
    assert load.peak_bytes == denoise.before_bytes == load.after_bytes


def test_a_sharded_array_is_counted_at_each_device_by_its_shard(bench: Bench) -> None:
    devices = jax.devices()[:4]
    mesh = jax.sharding.Mesh(np.array(devices), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    with bench.real_time_run(devices=devices) as run, run.stage("load"):
        kept = jax.device_put(np.zeros((8, 1024), np.float32), sharding)
    assert [use.after_bytes - use.before_bytes for use in run.report.stages[0].hbm] == [8192] * 4
    assert kept.nbytes == 32768


def test_on_a_cpu_the_peak_is_measured_and_labelled_so(bench: Bench) -> None:
    devices = jax.devices()
    with (
        bench.run(devices=devices) as run,
        run.stage("denoise", flops_per_step=1e9, flops_method="architecture") as stage,
    ):
        bench.clock.advance(2)
        stage.step(None)
    device, mfu = run.report.device, run.report.stages[0].mfu
    assert device is not None
    assert mfu is not None
    assert (device.platform, device.count) == ("cpu", len(devices))
    assert device.chip_ids == tuple(f"cpu{i}" for i in range(len(devices)))
    assert device.peak_source == "measured by a float32 matrix product"
    assert device.peak_flops_per_chip is not None
    assert mfu.denominator == pytest.approx(2 * len(devices) * device.peak_flops_per_chip)
    assert mfu.numerator == 1e9
    assert mfu.ratio == pytest.approx(1e9 / mfu.denominator)
    assert mfu.method == "architecture; peak: measured by a float32 matrix product"
    assert run.report.stages[0].bound is None, "no bandwidth is known for a CPU"


def test_the_history_keeps_no_array_alive(bench: Bench) -> None:
    with bench.real_time_run() as run, run.stage("denoise") as stage:
        for _ in range(3):
            _, done = denoise_step(latents_of(16))
            stage.step(done)
    kept = weakref.ref(done)
    del done, _
    gc.collect()
    assert kept() is None
    assert len(run.report.stages[0].steps) == 3
