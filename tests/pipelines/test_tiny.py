"""Tiny checkpoints: the real format, deterministic, and worth watching."""

import filecmp
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file
from transformers import AutoTokenizer, T5Tokenizer, UMT5EncoderModel

from crystools_pipelines.models import MODELS
from crystools_pipelines.tiny import write_tiny_checkpoint

FILES = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


@pytest.fixture(scope="module")
def wan21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint("wan2.1-t2v", tmp_path_factory.mktemp("tiny") / "wan")


@pytest.fixture(scope="module")
def pipeline(wan21: Path) -> Any:
    pipeline = WanPipeline.from_pretrained(wan21)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint = write_tiny_checkpoint("flux.2", tmp_path / "checkpoint")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in checkpoint.rglob("*") if path.is_file()}
    assert modes == dict.fromkeys(modes, 0o640)
    assert "diffusion_pytorch_model.safetensors" in modes


def config(checkpoint: Path, component: str) -> Any:
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    return json.loads((checkpoint / component / name).read_text())


def generate(pipeline: Any, prompt: str, seed: int) -> np.ndarray:
    output = pipeline(
        prompt=prompt,
        negative_prompt="low quality",
        height=64,
        width=96,
        num_frames=9,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(seed),
    )
    return np.asarray(output.frames[0])


def test_it_holds_the_files_of_a_diffusers_checkpoint_and_no_others(wan21: Path) -> None:
    assert sorted(str(file.relative_to(wan21)) for file in wan21.rglob("*") if file.is_file()) == FILES
    assert sum(file.stat().st_size for file in wan21.rglob("*")) < 10e6


@pytest.mark.parametrize("model", MODELS)
def test_two_calls_write_the_same_bytes(tmp_path: Path, model: str) -> None:
    first = write_tiny_checkpoint(model, tmp_path / "first")
    torch.manual_seed(7)  # whatever was drawn before
    second = write_tiny_checkpoint(model, tmp_path / "elsewhere" / "second")
    assert filecmp.cmpfiles(first, second, FILES, shallow=False) == (FILES, [], [])


def test_torchs_own_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    write_tiny_checkpoint("wan2.1-t2v", tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_the_scheduler_is_the_published_one(wan21: Path) -> None:
    published = {
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
        "num_train_timesteps": 1000,
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "lower_order_final": True,
        "final_sigmas_type": "zero",
        "timestep_spacing": "linspace",
    }
    assert published.items() <= config(wan21, "scheduler").items()


def test_the_architecture_is_the_published_one_made_small(wan21: Path) -> None:
    transformer, vae = config(wan21, "transformer"), config(wan21, "vae")
    assert transformer["_class_name"] == "WanTransformer3DModel"
    assert (transformer["patch_size"], transformer["in_channels"], transformer["out_channels"]) == (
        [1, 2, 2],
        16,
        16,
    )
    assert (transformer["qk_norm"], transformer["cross_attn_norm"]) == ("rms_norm_across_heads", True)
    assert transformer["num_layers"] >= 3
    assert vae["_class_name"] == "AutoencoderKLWan"
    assert (vae["z_dim"], vae["scale_factor_temporal"], vae["scale_factor_spatial"]) == (16, 4, 8)
    assert vae["temperal_downsample"] == [False, True, True]
    assert config(wan21, "text_encoder")["architectures"] == ["UMT5EncoderModel"]


def test_what_is_split_over_devices_divides_by_eight(wan21: Path) -> None:
    transformer, text_encoder = config(wan21, "transformer"), config(wan21, "text_encoder")
    split = [transformer[key] for key in ("num_attention_heads", "ffn_dim")]
    split += [text_encoder[key] for key in ("num_heads", "d_ff", "d_model")]
    assert [size % 8 for size in split] == [0] * len(split)


def test_the_tokenizer_is_t5s_and_loads_without_a_network(wan21: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(wan21 / "tokenizer", local_files_only=True)
    assert type(tokenizer) is T5Tokenizer
    encoded = tokenizer("a cat on the beach", padding="max_length", max_length=16)
    assert tokenizer.decode(encoded.input_ids, skip_special_tokens=True) == "a cat on the beach"
    length = sum(encoded.attention_mask)
    assert encoded.input_ids[length - 1] == tokenizer.eos_token_id == 1
    assert set(encoded.input_ids[length:]) == {tokenizer.pad_token_id} == {0}
    assert len(tokenizer) == config(wan21, "text_encoder")["vocab_size"]


def test_the_text_encoder_loads_with_its_own_embeddings(wan21: Path) -> None:
    stored = load_file(wan21 / "text_encoder" / "model.safetensors")["shared.weight"]
    loaded = UMT5EncoderModel.from_pretrained(wan21 / "text_encoder")
    assert torch.equal(loaded.encoder.embed_tokens.weight, stored)


def test_videos_have_shapes_that_move_and_are_neither_grey_nor_clipped(pipeline: Any) -> None:
    frames = generate(pipeline, "a cat on the beach", seed=1)
    assert frames.shape == (9, 64, 96, 3)
    assert frames.std(axis=(1, 2)).mean() > 0.05
    assert ((frames > 0) & (frames < 1)).mean() > 0.8
    between_pixels, between_frames = (
        np.abs(np.diff(frames, axis=2)).mean(),
        np.abs(np.diff(frames, axis=0)).mean(),
    )
    assert 0.001 < between_pixels < 0.03
    assert 0.001 < between_frames < 0.1


def test_seed_and_prompt_decide_the_video(pipeline: Any) -> None:
    frames = generate(pipeline, "a cat on the beach", seed=1)
    np.testing.assert_array_equal(generate(pipeline, "a cat on the beach", seed=1), frames)
    assert np.abs(generate(pipeline, "a cat on the beach", seed=2) - frames).mean() > 0.02
    assert np.abs(generate(pipeline, "a red car drives down the road", seed=1) - frames).mean() > 0.02


def test_an_unknown_model_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    known = ", ".join(sorted(MODELS))
    with pytest.raises(
        ValueError, match=f"^model 'sora' has no tiny checkpoint; choose one of: {re.escape(known)}$"
    ):
        write_tiny_checkpoint("sora", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an empty directory; name a new or an empty one"):
        write_tiny_checkpoint("wan2.1-t2v", tmp_path)
    with pytest.raises(FileExistsError, match="is not an empty directory"):
        write_tiny_checkpoint("wan2.1-t2v", tmp_path / "notes.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
