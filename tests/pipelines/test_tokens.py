"""A prompt that is longer than the text encoder takes is cut as diffusers cuts it, and that is said once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from crystools_pipelines.cogvideox import text as cogvideox
from crystools_pipelines.flux2 import text as flux2
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.runtime.job import Job, choose_devices
from crystools_pipelines.text.tokens import Tokenize, tokens_of, warnings_of
from crystools_pipelines.wan import text as wan21
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu import telemetry
from crystools_tpu.telemetry import Bus, RunWarned

# Of the tiny tokenizers a letter with a space before it is a token; a prompt has an end besides.
TALE = "a b " * 400

T5 = [("wan21", wan21.tokenize, 512), ("cogvideox", cogvideox.tokenize, 226)]


@pytest.fixture
def tokenizers(
    tiny_wan21: Path, tiny_cogvideox: Path, tiny_flux2: Path
) -> dict[str, PreTrainedTokenizerBase]:
    folders = {"wan21": tiny_wan21, "cogvideox": tiny_cogvideox, "flux2": tiny_flux2}
    return {name: AutoTokenizer.from_pretrained(folder / "tokenizer") for name, folder in folders.items()}


@pytest.mark.parametrize(("model", "tokenize", "most"), T5)
def test_a_long_prompt_and_a_long_negative_one_are_each_said_with_both_numbers(
    tokenizers: dict[str, PreTrainedTokenizerBase], model: str, tokenize: Tokenize, most: int
) -> None:
    prompts = [TALE, "c " * 1000]
    tokens = tokens_of(tokenize, prompts, tokenizers[model], most)
    assert tokens[0].shape == tokens[1].shape == (2, most)
    assert warnings_of(tokenize, prompts, tokenizers[model], tokens) == [
        f"prompt: it comes to 801 tokens, of which the text encoder takes {most}; the rest is left out: "
        "shorten it",
        f"negative_prompt: it comes to 1001 tokens, of which the text encoder takes {most}; the rest is left "
        "out: shorten it",
    ]


@pytest.mark.parametrize(("model", "tokenize", "most"), T5)
def test_a_prompt_that_just_fits_is_whole(
    tokenizers: dict[str, PreTrainedTokenizerBase], model: str, tokenize: Tokenize, most: int
) -> None:
    for prompts in (["a " * (most - 1), ""], ["a cat", "a " * (most - 1)]):
        tokens = tokens_of(tokenize, prompts, tokenizers[model], most)
        assert warnings_of(tokenize, prompts, tokenizers[model], tokens) == []
    (warning,) = warnings_of(
        tokenize,
        ["a " * most],
        tokenizers[model],
        tokens_of(tokenize, ["a " * most], tokenizers[model], most),
    )
    assert f"comes to {most + 1} tokens, of which the text encoder takes {most};" in warning


def test_flux2_counts_the_conversation_around_the_prompt(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    tokenizer = tokenizers["flux2"]
    around = int(tokens_of(flux2.tokenize, [""], tokenizer, 512)[1].sum())
    assert around > 100
    for words, count in (("a cat", 0), (TALE, 1)):
        tokens = tokens_of(flux2.tokenize, [words], tokenizer, 512)
        assert tokens[0].shape == (1, 512)
        warnings = warnings_of(flux2.tokenize, [words], tokenizer, tokens)
        assert len(warnings) == count
    wanted = int(warnings[0].split()[4])
    longer = tokens_of(flux2.tokenize, [TALE], tokenizer, 4096)
    assert wanted == int(longer[1].sum())


def test_what_is_left_of_a_long_prompt_is_what_diffusers_leaves(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    ids, mask = tokens_of(wan21.tokenize, [TALE], tokenizers["wan21"], 512)
    expected = tokenizers["wan21"]([TALE.strip()], max_length=512, truncation=True, return_tensors="np")
    np.testing.assert_array_equal(ids, expected["input_ids"])
    assert mask.all()


def test_counting_says_nothing_of_its_own(
    tokenizers: dict[str, PreTrainedTokenizerBase], caplog: pytest.LogCaptureFixture
) -> None:
    """Transformers would tell of indexing errors, which cannot be."""
    for model, tokenize, most in (*T5, ("flux2", flux2.tokenize, 512)):
        tokens = tokens_of(tokenize, [TALE], tokenizers[model], most)
        assert len(warnings_of(tokenize, [TALE], tokenizers[model], tokens)) == 1
    assert caplog.messages == []


def test_the_run_says_it_once_in_the_log_on_the_bus_and_in_its_report(
    tiny_wan21: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    mesh = make_mesh(choose_devices(1), branches=1, widths=(), model="wan2.1-t2v")
    bus = Bus()
    with bus.subscribe() as events, telemetry.run("wan2.1-t2v", bus=bus) as run:
        job = Job(Checkpoint(tiny_wan21), mesh, "float32", run)
        for _ in range(2):
            job.tokens(wan21.tokenize, [TALE, "dark"], 512)
        warning = (
            "prompt: it comes to 801 tokens, of which the text encoder takes 512; the rest is left out: "
            "shorten it"
        )
        assert run.report.warnings == (warning,)
        said = [event for event in events.drain() if isinstance(event, RunWarned)]
    assert said == [RunWarned(run.run_id, "wan2.1-t2v", warning)]
    assert caplog.messages == [f"wan2.1-t2v: {warning}"]
    assert json.loads(json.dumps(telemetry.to_wire(run.report)))["warnings"] == [warning]
