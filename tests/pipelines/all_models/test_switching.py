"""Four models in one process, in a memory that does not hold them all: nobody makes room by hand.

Wan2.2 text-to-video is not among them: it has image-to-video's components but one, and changes them alike.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

from crystools_pipelines.runtime.residency import free_all, residency
from crystools_tpu import telemetry
from crystools_tpu.telemetry import ModelFreed
from tests.pipelines.all_models.conftest import Run
from tests.pipelines.conftest import limited_to

ROUND = ("flux.2", "wan2.1-t2v", "cogvideox-t2v", "wan2.2-i2v")
ROUNDS = 3  # twelve switches
# What has to leave, in this order, when a model comes back in a memory as large as all of flux.2.
LEAVES = {
    "flux.2": [
        ("cogvideox-t2v", "vae"),
        ("wan2.2-i2v", "text_encoder"),
        ("wan2.2-i2v", "vae"),  # its encoder
        ("wan2.2-i2v", "transformer"),
        ("wan2.2-i2v", "transformer_2"),
        ("wan2.2-i2v", "vae"),
    ],
    "wan2.1-t2v": [("flux.2", "text_encoder"), ("flux.2", "transformer")],
    "cogvideox-t2v": [],
    "wan2.2-i2v": [
        ("flux.2", "vae"),
        ("wan2.1-t2v", "text_encoder"),
        ("wan2.1-t2v", "transformer"),
        ("wan2.1-t2v", "vae"),
        ("cogvideox-t2v", "text_encoder"),
        ("cogvideox-t2v", "transformer"),
    ],
}
MIB = 2**20


@pytest.fixture(autouse=True)
def nothing_resident() -> Iterator[None]:
    """Each test begins and ends with no model in memory."""
    free_all()
    yield
    free_all()


def device_bytes() -> dict[tuple[str, str], list[int]]:
    """What each model's components hold on the device; Wan2.2's VAE is there twice: encoder and decoder."""
    held: dict[tuple[str, str], list[int]] = {}
    for resident in residency.residents():
        held.setdefault((resident.model, resident.component), []).append(resident.device_bytes["cpu:0"])
    return held


@pytest.mark.timeout(600)  # half a minute on an idle machine
def test_twelve_switches_through_all_models_leave_no_trace(
    run: Run, checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="crystools_pipelines.runtime.residency")
    frames = {model: run(model).frames for model in ROUND}
    sizes = device_bytes()
    budget = sum(
        size for (model, _), held in sizes.items() for size in held if model == str(checkpoints["flux.2"])
    )
    free_all()
    caplog.clear()
    process, live, threads, memory = psutil.Process(), [], [], []
    said = []
    with limited_to(budget), telemetry.subscribe() as events:
        for turn in range(ROUNDS):
            for model in ROUND:
                generation = run(model)
                np.testing.assert_array_equal(generation.frames, frames[model])
                freed = [event for event in events.drain() if isinstance(event, ModelFreed)]
                expected = [(str(checkpoints[owner]), name) for owner, name in LEAVES[model]]
                if turn or model != ROUND[0]:
                    assert [(event.model, event.component) for event in freed] == expected
                else:
                    assert freed == []
                assert generation.report.warnings == tuple(
                    f"evicted {event.component} of {event.model}, {telemetry.size_label(event.freed_bytes)}, "
                    "for another that needed the room"
                    for event in freed
                )
                for event in freed:
                    assert (event.run_id, event.reason) == (generation.report.run_id, "evicted")
                    assert event.freed_bytes in sizes[event.model, event.component]
                said += [
                    f"evicted: {event.component} of {event.model}, {event.freed_bytes} bytes"
                    for event in freed
                ]
                threads.append(threading.active_count())
            gc.collect()
            live.append(sum(array.nbytes for array in jax.live_arrays()))
            memory.append(process.memory_info().rss)
    of_residency = "crystools_pipelines.runtime.residency"
    assert [record.getMessage() for record in caplog.records if record.name == of_residency] == said
    assert len(set(live)) == 1
    assert len(set(threads)) == 1
    # The weights that leave in a round are 37 MB; what remains is jax's own caches.
    assert memory[-1] - memory[1] < 64 * MIB


def test_wan22s_two_transformers_need_not_fit_beside_each_other(
    run: Run, checkpoints: dict[str, Path]
) -> None:
    frames = run("wan2.2-i2v").frames
    folder = str(checkpoints["wan2.2-i2v"])
    sizes = device_bytes()
    (first,), (second,) = sizes[folder, "transformer"], sizes[folder, "transformer_2"]
    budget = first + max(sizes[folder, "vae"])
    assert budget < first + second
    free_all()
    with limited_to(budget), telemetry.subscribe() as events:
        generation = run("wan2.2-i2v")
        freed = [event for event in events.drain() if isinstance(event, ModelFreed)]
    np.testing.assert_array_equal(generation.frames, frames)
    assert [(event.component, event.reason) for event in freed] == [
        ("text_encoder", "evicted"),
        ("vae", "evicted"),
        ("transformer", "evicted"),
    ]
    assert [resident.component for resident in residency.residents()] == ["transformer_2", "vae"]
