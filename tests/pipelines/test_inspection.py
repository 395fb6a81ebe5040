"""What is in a checkpoint's files is looked at whole before the first stage, by their headers alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

from crystools_pipelines.cogvideox import pipeline as cogvideox
from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.flux2 import pipeline as flux2
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.run import started_run
from crystools_pipelines.runtime.multistep import Schedule
from crystools_pipelines.runtime.pipeline import Phase
from crystools_pipelines.wan.pipeline import Prepared
from crystools_pipelines.wan.wan21_t2v import pipeline as wan21
from crystools_pipelines.wan.wan22_i2v import pipeline as wan22_i2v
from crystools_pipelines.wan.wan22_t2v import pipeline as wan22_t2v
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.tensor_files import StoredTensor
from crystools_tpu import telemetry


def experts(*components: str) -> Prepared:
    schedule = Schedule(np.zeros(4, np.float32), np.zeros((4, 3, 6), np.float32))
    return Prepared(UniPCMultistepScheduler(), schedule, tuple(Phase(each, 4, 5.0) for each in components))


MESH = make_mesh(jax.devices()[:1], branches=1, widths=(8,))
PARTS = {
    "wan2.1-t2v": wan21.PIPELINE.parts(MESH, experts("transformer")),
    "wan2.2-t2v": wan22_t2v.PIPELINE.parts(MESH, experts("transformer", "transformer_2")),
    "wan2.2-i2v": wan22_i2v.PIPELINE.parts(MESH, experts("transformer_2"))[1:3],
    "cogvideox-t2v": cogvideox.PIPELINE.parts(MESH, cast(Any, None)),
    "flux.2": flux2.PIPELINE.parts(MESH, cast(Any, None)),
}
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"
BIAS = "blocks.0.attn1.to_q.bias"
WEIGHT = "blocks.0.attn1.to_q.weight"

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _headers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here reads a tensor."""

    def read(tensor: StoredTensor) -> None:
        raise AssertionError(f"a tensor of {tensor.path} is read")

    monkeypatch.setattr(StoredTensor, "read", read)


@pytest.fixture
def folder(tiny_wan21: Path, tmp_path: Path) -> Path:
    """A tiny checkpoint of one's own. Files are links: they are replaced, not written to."""
    return copy(tiny_wan21, tmp_path / "checkpoint")


def copy(checkpoint: Path, to: Path) -> Path:
    return Path(shutil.copytree(checkpoint, to, copy_function=os.link))


def replace(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def with_tensors(file: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = change(load_file(file))
    file.unlink()
    save_file(tensors, file)


def look(folder: Path, model: str = "wan2.1-t2v") -> None:
    """Begins a run of the model, and ends it before its first stage."""
    with started_run(model, {}, Checkpoint(folder), MESH, parts=PARTS[model]) as job:
        assert job.run.report.stages == ()


def refusal(folder: Path, model: str = "wan2.1-t2v") -> str:
    with pytest.raises(CheckpointError) as error:
        look(folder, model)
    report = telemetry.history.reports()[0]
    assert (report.status, report.stages) == (telemetry.Status.FAILED, ())
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "HERE")


@pytest.mark.parametrize("model", PARTS)
def test_a_checkpoint_as_it_is_saved_is_in_order(model: str, request: pytest.FixtureRequest) -> None:
    names = {
        "wan2.1-t2v": "wan21",
        "wan2.2-t2v": "wan22_t2v",
        "wan2.2-i2v": "wan22_i2v",
        "cogvideox-t2v": "cogvideox",
        "flux.2": "flux2",
    }
    look(request.getfixturevalue(f"tiny_{names[model]}"), model)


def test_what_the_models_do_without_may_be_there(folder: Path) -> None:
    """The decoder of T5, and its embedding under the other name, too."""

    def more(tensors: Tensors) -> Tensors:
        other = {
            "decoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2, 2),
            "lm_head.weight": torch.ones(1),
        }
        return tensors | other | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}

    with_tensors(folder / TEXT_ENCODER, more)
    look(folder)


def test_f8_weights_without_scales_are_weights_like_others(folder: Path) -> None:
    with_tensors(
        folder / TRANSFORMER, lambda tensors: {n: t.to(torch.float8_e4m3fn) for n, t in tensors.items()}
    )
    look(folder)


@pytest.mark.parametrize(
    ("file", "signs", "how"),
    [
        (TRANSFORMER, [f"{WEIGHT}_scale"], "weights with scales beside them"),
        (TRANSFORMER, [f"{WEIGHT}_scale_inv"], "weights with scales beside them"),
        (TRANSFORMER, ["blocks.0.attn1.to_q.scale_weight", "scaled_fp8"], "weights with scales beside them"),
        (TEXT_ENCODER, ["encoder.block.0.layer.0.SelfAttention.q.input_scale"], "weights with scales beside"),
        (
            TRANSFORMER,
            [f"{WEIGHT}.absmax", f"{WEIGHT}.quant_state.bitsandbytes__nf4"],
            "bitsandbytes, 4 bits",
        ),
        (TEXT_ENCODER, ["encoder.block.0.layer.0.SelfAttention.q.SCB"], "bitsandbytes, 8 bits"),
        (TRANSFORMER, [f"{WEIGHT}_scale_2"], "NVFP4 or another packed format"),
        (TRANSFORMER, ["blocks.0.attn1.to_q.qzeros"], "GPTQ, AWQ or SVDQuant"),
    ],
)
def test_weights_that_mean_nothing_without_their_scales_are_refused(
    folder: Path, file: str, signs: list[str], how: str
) -> None:
    with_tensors(folder / file, lambda tensors: tensors | {sign: torch.ones(1) for sign in signs})
    said = refusal(folder)
    assert said.startswith(f"HERE/{file.partition('/')[0]} is quantised ({how}")
    assert signs[0] in said
    assert said.endswith("; give a checkpoint in bfloat16, float16 or float32")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_whole_numbers_are_no_weights(folder: Path, dtype: torch.dtype) -> None:
    with_tensors(folder / TRANSFORMER, lambda tensors: tensors | {WEIGHT: tensors[WEIGHT].to(dtype)})
    assert refusal(folder).startswith(f"HERE/transformer is quantised ({WEIGHT} is ")


@pytest.mark.parametrize(
    "name", ["blocks.0.attn1.to_q.lora_A.weight", "blocks.7.attn1.to_q.weight", "motion.x"]
)
def test_a_tensor_that_would_not_be_used_is_named(folder: Path, name: str) -> None:
    with_tensors(folder / TRANSFORMER, lambda tensors: tensors | {name: torch.ones(1)})
    assert refusal(folder) == (
        f"HERE/transformer holds 1 tensor(s) that would not be used: {name}; "
        "give a checkpoint that is what its config.json says"
    )


def test_a_long_list_of_faults_is_cut(folder: Path) -> None:
    with_tensors(folder / TRANSFORMER, lambda tensors: {name: torch.ones(1, 1, 1) for name in tensors})
    said = refusal(folder)
    assert said.startswith(
        "HERE/transformer does not fit its own config.json: scale_shift_table has shape [1"
    )
    assert said.endswith("; and 120 more")
    assert len(said) < 400


def sharded(folder: Path) -> Path:
    """The transformer's weights in two files; gives their index."""
    whole = folder / TRANSFORMER
    tensors = load_file(whole)
    whole.unlink()
    places: dict[str, str] = {}
    for number in (1, 2):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        half = {
            name: tensor for name, tensor in tensors.items() if name.startswith("blocks.0.") == (number == 1)
        }
        save_file(half, folder / "transformer" / file)
        places |= dict.fromkeys(half, file)
    index = Path(f"{whole}.index.json")
    index.write_text(json.dumps({"weight_map": places}))
    return index


def lose_a_shard(index: Path) -> str:
    (index.parent / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    return (
        "HERE/transformer lacks diffusion_pytorch_model-00002-of-00002.safetensors, which diffusion_pytorch"
    )


def lose_a_tensor(index: Path) -> str:
    name = "diffusion_pytorch_model-00001-of-00002.safetensors"
    with_tensors(index.parent / name, lambda tensors: {n: t for n, t in tensors.items() if n != BIAS})
    return (
        f"HERE/transformer/{name} lacks {BIAS}, which diffusion_pytorch_model.safetensors.index.json names: f"
    )


def break_the_index(index: Path) -> str:
    index.write_text("{")
    return f"HERE/transformer/{index.name} is no index of weight files: fetch it again"


@pytest.mark.parametrize("lose", [lose_a_shard, lose_a_tensor, break_the_index])
def test_an_index_and_its_files_belong_together(folder: Path, lose: Callable[[Path], str]) -> None:
    index = sharded(folder)
    look(folder)
    message = lose(index)
    assert refusal(folder).startswith(message)


HALF = (
    "HERE/transformer/diffusion_pytorch_model.safetensors ends before its last tensor: it is half downloaded;"
)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda content: content[:-1], HALF),
        (lambda content: content[: len(content) // 2], HALF),
        (lambda content: content[:100], HALF),
        (lambda content: b"", f"HERE/{TRANSFORMER} is no safetensors file: fetch it again"),
        (lambda content: b"<html><body>Sorry</body></html>", HALF),
        (
            lambda content: (8).to_bytes(8, "little") + b"not json" + content,
            f"HERE/{TRANSFORMER} is no safeten",
        ),
        (
            lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n",
            f"HERE/{TRANSFORMER} is a pointer of Git LFS and no weights: run `git lfs pull`",
        ),
    ],
)
def test_a_file_that_is_not_whole_is_named(folder: Path, cut: Callable[[bytes], bytes], message: str) -> None:
    replace(folder / TRANSFORMER, cut((folder / TRANSFORMER).read_bytes()))
    assert refusal(folder).startswith(message)


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ("diffusion_pytorch_model.safetensors.incomplete", "is half downloaded: fetch it again"),
        ("diffusion_pytorch_model.bin", "is pickled; give a checkpoint in safetensors"),
        ("wan2.1-t2v-14b-Q4_K_M.gguf", "is in GGUF; give a checkpoint in diffusers' own format"),
        (
            "diffusion_pytorch_model.fp16.safetensors",
            "is another variant; give a checkpoint with the plain one",
        ),
    ],
)
def test_weights_that_are_there_in_another_form_are_named(folder: Path, there: str, message: str) -> None:
    (folder / TRANSFORMER).rename(folder / "transformer" / there)
    said = refusal(folder)
    assert said.startswith(
        "HERE/transformer holds no safetensors weights (diffusion_pytorch_model or model.s"
    )
    assert said.endswith(f"; {there} {message}")


def lose_the_tokenizer(folder: Path) -> Iterator[str]:
    shutil.rmtree(folder / "tokenizer")
    yield "HERE has no folder 'tokenizer': it is not in diffusers' format"


def empty_the_tokenizer(folder: Path) -> Iterator[str]:
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    yield "HERE/tokenizer cannot be read as a tokenizer ("


def lose_the_vocabulary(folder: Path) -> Iterator[str]:
    (folder / "tokenizer/tokenizer.json").unlink()
    yield "HERE/tokenizer lacks spiece.model or tokenizer.json: fetch it again"


def cut_the_tokenizer(folder: Path) -> Iterator[str]:
    file = folder / "tokenizer/tokenizer.json"
    replace(file, file.read_bytes()[:1000])
    yield "HERE/tokenizer cannot be read as a tokenizer ("


def exchange_the_tokenizer(folder: Path) -> Iterator[str]:
    file = folder / "text_encoder/config.json"
    replace(file, json.dumps(json.loads(file.read_text()) | {"vocab_size": 10}).encode())
    yield "HERE: its tokenizer has 164 tokens, its text_encoder knows 10;"


@pytest.mark.parametrize(
    "spoil",
    [
        lose_the_tokenizer,
        empty_the_tokenizer,
        lose_the_vocabulary,
        cut_the_tokenizer,
        exchange_the_tokenizer,
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_named(
    folder: Path, spoil: Callable[[Path], Iterator[str]]
) -> None:
    (message,) = spoil(folder)
    assert refusal(folder).startswith(message)


@pytest.mark.parametrize("spoiled", ["vae", "transformer_2"])
def test_only_what_the_run_uses_is_looked_at(tiny_wan22_i2v: Path, tmp_path: Path, spoiled: str) -> None:
    """The text encoder is not among the parts."""
    other = copy(tiny_wan22_i2v, tmp_path / "other")
    shutil.rmtree(other / "text_encoder")
    look(other, "wan2.2-i2v")
    replace(other / spoiled / "diffusion_pytorch_model.safetensors", b"")
    assert refusal(other, "wan2.2-i2v").startswith(
        f"HERE/{spoiled}/diffusion_pytorch_model.safetensors is no"
    )


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.30.mlp.up_proj.weight",
        "language_model.model.layers.39.input_layernorm.weight",
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
        "vision_tower.patch_conv.weight",
        "multi_modal_projector.linear_1.weight",
    ],
)
def test_flux_does_without_what_lies_behind_its_last_layer(
    tiny_flux2: Path, tmp_path: Path, name: str
) -> None:
    other = copy(tiny_flux2, tmp_path / "other")
    with_tensors(other / TEXT_ENCODER, lambda tensors: tensors | {name: torch.ones(1)})
    look(other, "flux.2")
