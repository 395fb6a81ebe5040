"""Who is in the devices' memory: models stay, leave for one another, and go when asked."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from crystools_pipelines.errors import OutOfMemoryError
from crystools_pipelines.run import Generation, generate
from crystools_pipelines.runtime.residency import free_all, residency
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_tpu import telemetry
from crystools_tpu.telemetry import ModelFreed, RunReport, StageName, StageStarted
from tests.pipelines.conftest import limited_to

REQUEST = Wan21Request("a cat", height=32, width=32, num_frames=1, num_inference_steps=1, guidance_scale=1.0)
COMPONENTS = ("text_encoder", "transformer", "vae")


@pytest.fixture(autouse=True)
def nothing_resident() -> Iterator[None]:
    """Each test begins and ends with no model in memory."""
    free_all()
    yield
    free_all()


@pytest.fixture(scope="module")
def two_models(tiny_wan21: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same model in two folders: two models, for all that anybody knows."""
    second = tmp_path_factory.mktemp("second") / "wan21"
    shutil.copytree(tiny_wan21, second)
    return tiny_wan21, second


@pytest.fixture(scope="module")
def device_bytes(tiny_wan21: Path) -> dict[str, int]:
    """What each component takes on one device."""
    free_all()
    run(tiny_wan21)
    return {resident.component: resident.device_bytes["cpu:0"] for resident in residency.residents()}


def run(checkpoint: Path, devices: int = 1) -> Generation:
    return generate(REQUEST, checkpoint=checkpoint, devices=devices)


def residents() -> list[tuple[str, str]]:
    return [(Path(resident.model).parent.name, resident.component) for resident in residency.residents()]


def live_bytes() -> int:
    gc.collect()  # what other tests left to the collector is not ours to count
    return sum(array.nbytes for array in jax.live_arrays())


def compiles_in_loads(report: RunReport) -> float:
    return sum(stage.compile_seconds for stage in report.stages if stage.name == StageName.LOAD)


def test_the_books_say_what_each_device_holds(tiny_wan21: Path) -> None:
    before = live_bytes()
    run(tiny_wan21)
    held = sum(sum(resident.device_bytes.values()) for resident in residency.residents())
    assert [resident.component for resident in residency.residents()] == list(COMPONENTS)
    assert {resident.model for resident in residency.residents()} == {str(tiny_wan21)}
    assert held == pytest.approx(live_bytes() - before, abs=1024)  # scalars that jax itself keeps


def test_a_split_component_is_counted_on_every_device(tiny_wan21: Path) -> None:
    run(tiny_wan21, devices=2)
    for resident in residency.residents():
        assert set(resident.device_bytes) == {"cpu:0", "cpu:1"}
    encoder = residency.residents()[0].device_bytes
    run(tiny_wan21, devices=1)
    whole = next(
        r for r in residency.residents() if r.component == "text_encoder" and len(r.device_bytes) == 1
    )
    assert encoder["cpu:0"] < whole.device_bytes["cpu:0"]


def test_a_second_run_finds_its_weights_in_memory(tiny_wan21: Path) -> None:
    first = run(tiny_wan21)
    arrays = {id(array) for array in jax.live_arrays() if array.nbytes > 64}
    second = run(tiny_wan21)
    assert {id(array) for array in jax.live_arrays() if array.nbytes > 64} == arrays
    np.testing.assert_array_equal(first.frames, second.frames)
    assert compiles_in_loads(second.report) == 0


def test_files_that_have_changed_are_loaded_anew(tmp_path: Path, tiny_wan21: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_wan21, model)
    run(model)
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    os.utime(weights, ns=(0, 0))
    with telemetry.subscribe() as events:
        generation = run(model)
        freed = [event for event in events.drain() if isinstance(event, ModelFreed)]
    assert [(event.component, event.reason) for event in freed] == [("transformer", "evicted")]
    size = telemetry.size_label(freed[0].freed_bytes)
    assert generation.report.warnings == (
        f"evicted transformer of {model}, {size}, as its files have changed",
    )
    assert sorted(resident.component for resident in residency.residents()) == sorted(COMPONENTS)


def test_only_as_much_leaves_as_is_needed(
    two_models: tuple[Path, Path], device_bytes: dict[str, int]
) -> None:
    first, second = two_models
    with limited_to(sum(device_bytes.values()) + device_bytes["text_encoder"]):
        run(first)
        with telemetry.subscribe() as events:
            run(second)
            order = [
                (event.report.component or "", "loads")
                if isinstance(event, StageStarted)
                else (event.component, f"leaves {event.model}")
                for event in events.drain()
                if isinstance(event, ModelFreed)
                or (isinstance(event, StageStarted) and event.report.name == StageName.LOAD)
            ]
    assert order[:2] == [("text_encoder", "loads"), ("transformer", "loads")]
    assert order[2] == ("text_encoder", f"leaves {first}")  # the least recently used


def test_what_a_model_needs_at_least_is_said(tiny_wan21: Path, device_bytes: dict[str, int]) -> None:
    budget = device_bytes["transformer"] - 1
    with limited_to(budget), pytest.raises(OutOfMemoryError) as error:
        run(tiny_wan21)
    assert (error.value.stage, error.value.wanted_bytes) == ("load", device_bytes["transformer"])
    assert error.value.available_bytes == budget
    assert error.value.remedies == ("more devices (now 1)",)
    assert residents() == []  # the text encoder had to go first


def test_free_all_frees_everything_and_says_what(tiny_wan21: Path, device_bytes: dict[str, int]) -> None:
    before = live_bytes()
    run(tiny_wan21)
    with telemetry.subscribe() as events:
        freed = free_all()
        said = events.drain()
    assert said == [
        ModelFreed(None, str(tiny_wan21), name, size, "freed") for name, size in device_bytes.items()
    ]
    assert freed == tuple(said)
    assert residency.residents() == ()
    assert live_bytes() == pytest.approx(before, abs=1024)
    assert free_all() == ()
    run(tiny_wan21)
    assert [resident.component for resident in residency.residents()] == list(COMPONENTS)


def test_free_all_during_a_run_leaves_it_what_it_is_using(tiny_wan21: Path) -> None:
    expected = run(tiny_wan21).frames
    freed: list[ModelFreed] = []
    denoising = threading.Event()

    def free_when_denoising() -> None:
        assert denoising.wait(60)
        freed.extend(free_all())

    thread = threading.Thread(target=free_when_denoising)
    thread.start()

    def wake() -> None:
        for event in events.drain():
            if isinstance(event, StageStarted) and event.report.name == StageName.DENOISE:
                denoising.set()
                thread.join(60)

    with telemetry.subscribe(wakeup=wake) as events:
        frames = run(tiny_wan21).frames
    assert [f.component for f in freed] == ["vae", "text_encoder"]  # the least recently used first
    np.testing.assert_array_equal(frames, expected)
    assert residents() == [(tiny_wan21.parent.name, "vae")]  # loaded since
