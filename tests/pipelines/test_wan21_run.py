"""What a run reports, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.run import Generation, generate
from crystools_pipelines.runtime.residency import free_all
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_tpu import telemetry
from crystools_tpu.telemetry import CompileFinished, StageName

REQUEST = Wan21Request("a cat", height=32, width=32, num_frames=9, num_inference_steps=5)


@pytest.fixture(scope="module")
def generation(tiny_wan21: Path, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    out = tmp_path_factory.mktemp("out") / "cat.npy"
    return generate(REQUEST, checkpoint=tiny_wan21, devices=1, out=out)


def compiles(request: Wan21Request, checkpoint: Path) -> Counter[StageName]:
    """How many compiles each stage causes where nothing is resident."""
    free_all()
    with telemetry.subscribe(maxlen=10_000) as events:
        generate(request, checkpoint=checkpoint, devices=1)
        return Counter(event.stage_name for event in events.drain() if isinstance(event, CompileFinished))


def test_each_model_is_loaded_just_before_its_use(generation: Generation) -> None:
    assert [(stage.name.value, stage.component) for stage in generation.report.stages] == [
        ("load", "text_encoder"),
        ("text_encode", None),
        ("load", "transformer"),
        ("denoise", "transformer"),
        ("load", "vae"),
        ("vae_decode", None),
        ("save", None),
    ]


def test_every_step_is_reported_and_finite(generation: Generation) -> None:
    steps = {stage.name: stage.steps for stage in generation.report.stages if stage.steps}
    assert {name: len(records) for name, records in steps.items()} == {
        StageName.TEXT_ENCODE: 1,
        StageName.DENOISE: 5,
        StageName.VAE_DECODE: 3,  # 9 frames are 3 latent ones
    }
    assert all(record.finite for records in steps.values() for record in records)


def test_nothing_is_compiled_after_the_first_step(generation: Generation) -> None:
    for stage in generation.report.stages:
        assert stage.recompiles == 0, stage.recompile_reasons
        assert [record.compiled for record in stage.steps[1:]] == [False] * len(stage.steps[1:])


def test_the_stages_make_up_the_run(generation: Generation) -> None:
    """From the first on, before which the checkpoint is looked at."""
    report = generation.report
    assert report.total_seconds is not None
    before = report.stages[0].started_unix_seconds - report.started_unix_seconds
    stages = sum(stage.seconds or 0 for stage in report.stages)
    assert stages == pytest.approx(report.total_seconds - before, rel=0.02)


def test_flops_come_from_the_architecture(generation: Generation) -> None:
    counted = [stage for stage in generation.report.stages if stage.flops is not None]
    assert [stage.name for stage in counted] == ["text_encode", "denoise", "vae_decode"]
    assert {stage.flops_method for stage in counted} == {"architecture"}


def test_the_report_has_the_request_and_the_file(generation: Generation, tiny_wan21: Path) -> None:
    report = generation.report
    assert (report.pipeline, report.model_id) == ("wan2.1-t2v", str(tiny_wan21))
    assert report.params["prompt"] == "a cat"
    assert report.params["flow_shift"] == 5.0
    assert report.device is not None
    assert report.device.count == 1
    assert report.output is not None
    np.testing.assert_array_equal(np.load(report.output), generation.frames)


def test_another_scheduler_other_sigmas_shift_and_fewer_steps_compile_nothing(
    tiny_wan21: Path,
) -> None:
    generate(REQUEST, checkpoint=tiny_wan21, devices=1)
    others: list[dict[str, Any]] = [
        {"scheduler": "euler", "sigmas": (1.0, 0.8, 0.6, 0.4, 0.2), "flow_shift": 3.0},
        {"scheduler": "dpm++"},
        {"num_inference_steps": 2},
    ]
    for other in others:
        report = generate(replace(REQUEST, **other), checkpoint=tiny_wan21, devices=1).report
        assert [stage.name for stage in report.stages if stage.compile_cache is not None] == [], other
        assert report.params.get("scheduler") == other.get("scheduler")


@pytest.mark.usefixtures("generation")  # so that what is compiled once a process is out of the way
def test_compiles_do_not_grow_with_the_frames(tiny_wan21: Path) -> None:
    few = compiles(
        Wan21Request("a cat", height=32, width=32, num_frames=5, num_inference_steps=2), tiny_wan21
    )
    many = compiles(
        Wan21Request("a cat", height=32, width=32, num_frames=17, num_inference_steps=2), tiny_wan21
    )
    assert few[StageName.VAE_DECODE] == 2
    assert few == many


@pytest.mark.usefixtures("generation")
def test_compiles_do_not_grow_with_the_depth(tiny_wan21: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    shutil.copytree(tiny_wan21, deep, ignore=shutil.ignore_patterns("transformer"))
    config = json.loads((tiny_wan21 / "transformer" / "config.json").read_text())
    layers = 3 * config["num_layers"]
    transformer = WanTransformer3DModel.from_config(config | {"num_layers": layers})
    transformer.save_pretrained(deep / "transformer")
    request = Wan21Request("a cat", height=32, width=32, num_frames=1, num_inference_steps=2)
    shallow, deeper = compiles(request, tiny_wan21), compiles(request, deep)
    assert shallow[StageName.DENOISE] == deeper[StageName.DENOISE]


def test_a_nan_in_the_weights_is_found_at_the_first_step(tiny_wan21: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_wan21, broken)
    transformer = WanTransformer3DModel.from_pretrained(broken / "transformer")
    with torch.no_grad():
        transformer.proj_out.bias[0] = torch.nan
    transformer.save_pretrained(broken / "transformer")
    request = Wan21Request("a cat", height=32, width=32, num_frames=1, num_inference_steps=2)
    report = generate(request, checkpoint=broken, devices=1).report
    denoise = next(stage for stage in report.stages if stage.name == StageName.DENOISE)
    assert denoise.first_nonfinite_step == 0


def test_no_array_stays_on_the_device_but_the_weights(tiny_wan21: Path) -> None:
    free_all()
    before = jax.live_arrays()
    known = {id(array) for array in before}
    generate(REQUEST, checkpoint=tiny_wan21, devices=1)
    free_all()
    assert [array.shape for array in jax.live_arrays() if array.ndim and id(array) not in known] == []


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({"devices": 9}, "devices", "9 is out of range; give 1 to 8, or 0 for all"),
        ({"dtype": "int8"}, "dtype", "'int8' is not supported; give one of bfloat16, float32"),
        ({"fps": 0}, "fps", "0 is too few; give 1 or more"),
        ({"out": Path("cat.gif")}, "out", "cannot write .gif files; end the name in .mp4 or .npy or .png"),
        ({"out": Path("cat.png")}, "out", "9 frames do not fit .png, which holds one; use .mp4 or .npy"),
        (
            {"checkpoint": "no such folder"},
            "checkpoint",
            "'no such folder' is no folder; give one, or a hub id of the form org/name",
        ),
    ],
)
def test_an_argument_that_cannot_be_served_is_named_before_anything_runs(
    tiny_wan21: Path, arguments: dict[str, Any], field: str, message: str
) -> None:
    runs = len(telemetry.history.reports())
    with pytest.raises(RequestError) as error:
        generate(REQUEST, **{"checkpoint": tiny_wan21} | arguments)
    assert (error.value.field, error.value.message) == (field, message)
    assert len(telemetry.history.reports()) == runs


def test_a_folder_that_is_no_diffusers_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no folder 'transformer': it is not in diffusers' format"):
        generate(REQUEST, checkpoint=tmp_path)


def test_a_checkpoint_with_another_scheduler_is_refused(tiny_wan21: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_wan21, other)
    file = other / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "DDIMScheduler"}))
    with pytest.raises(CheckpointError, match="the scheduler is DDIMScheduler"):
        generate(REQUEST, checkpoint=other)
