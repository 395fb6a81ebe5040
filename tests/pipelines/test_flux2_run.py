"""What a run of FLUX.2 reports and writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from PIL import Image
from transformers import AutoTokenizer

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.flux2.text import tokenize
from crystools_pipelines.run import Generation, generate
from crystools_pipelines.text.tokens import tokens_of
from crystools_pipelines.tiny import write_tiny_checkpoint
from crystools_tpu.telemetry import StageName

REQUEST = Flux2Request("a cat", height=32, width=32, num_inference_steps=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint("flux.2", tmp_path_factory.mktemp("checkpoints") / "flux2")


@pytest.fixture(scope="module")
def generation(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    out = tmp_path_factory.mktemp("out") / "cat.png"
    return generate(REQUEST, checkpoint=checkpoint, devices=1, out=out)


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


def test_every_step_is_finite_and_none_after_the_first_compiles(generation: Generation) -> None:
    steps = {stage.name: stage.steps for stage in generation.report.stages if stage.steps}
    assert {name: len(records) for name, records in steps.items()} == {
        StageName.TEXT_ENCODE: 1,
        StageName.DENOISE: 3,
        StageName.VAE_DECODE: 1,
    }
    assert all(record.finite for records in steps.values() for record in records)
    assert sum(stage.recompiles for stage in generation.report.stages) == 0


def test_flops_come_from_the_architecture(generation: Generation) -> None:
    counted = [stage for stage in generation.report.stages if stage.flops is not None]
    assert [stage.name for stage in counted] == ["text_encode", "denoise", "vae_decode"]
    assert {stage.flops_method for stage in counted} == {"architecture"}


def test_the_image_is_written_as_png(generation: Generation, checkpoint: Path) -> None:
    report = generation.report
    assert (report.pipeline, report.model_id) == ("flux.2", str(checkpoint))
    assert report.output is not None
    with Image.open(report.output) as image:
        np.testing.assert_array_equal(np.asarray(image), np.rint(generation.frames[0] * 255))


def test_the_prompt_stands_in_a_conversation_with_padding_before_it(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "tokenizer", local_files_only=True)
    ids, mask = tokens_of(tokenize, ["a cat"], tokenizer, 512)
    assert ids.shape == mask.shape == (1, 512)
    assert list(mask[0]) == sorted(mask[0])
    assert set(ids[0][mask[0] == 0]) == {tokenizer.pad_token_id}
    text = tokenizer.decode(ids[0][mask[0] == 1])
    assert text.startswith("<s>[SYSTEM_PROMPT]You are an AI that reasons about image descriptions.")
    assert text.endswith("[/SYSTEM_PROMPT][INST]a cat[/INST]")


def test_mu_grows_with_the_image_and_is_that_of_diffusers() -> None:
    assert compute_empirical_mu(64 * 64, 50) == pytest.approx(2.02, abs=0.3)
    assert compute_empirical_mu(64 * 64, 50) < compute_empirical_mu(128 * 128, 50)


def changed(checkpoint: Path, copy: Path, file: str, **values: Any) -> Path:
    """A copy of the checkpoint in which the configuration in `file` has other values."""
    shutil.copytree(checkpoint, copy)
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | values))
    return copy


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "DDIMScheduler"},
            "the scheduler is DDIMScheduler; give a checkpoint with UniPCMultistepScheduler or ",
        ),
        (
            "text_encoder/config.json",
            {"model_type": "qwen3"},
            "its text_encoder is qwen3, flux.2 takes mistral3; give a checkpoint such as black-forest-labs/",
        ),
    ],
)
def test_another_models_checkpoint_is_refused(
    checkpoint: Path, tmp_path: Path, file: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        generate(REQUEST, checkpoint=changed(checkpoint, tmp_path / "other", file, **values))


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(checkpoint: Path) -> None:
    with pytest.raises(RequestError, match=r"^out: cannot write \.gif files"):
        generate(REQUEST, checkpoint=checkpoint, out=Path("cat.gif"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("height", 1000, "1000 is not a positive multiple of 16; 992 would do"),
        ("width", 0, "0 is not a positive multiple of 16; 16 would do"),
        ("num_inference_steps", 0, "0 is too few; give 1 or more"),
        ("guidance_scale", -1.0, "-1.0 is negative or not finite; give 0 or more"),
        ("guidance_scale", float("inf"), "inf is negative or not finite; give 0 or more"),
        ("seed", -1, "-1 is out of range; give 0 to 2**64 - 1"),
        ("seed", 2**64, "18446744073709551616 is out of range; give 0 to 2**64 - 1"),
    ],
)
def test_a_field_that_cannot_be_served_is_named_with_its_remedy(field: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError) as error:
        Flux2Request("a cat", **{field: value})
    assert (error.value.field, error.value.message) == (field, message)
