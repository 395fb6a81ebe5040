"""LoRAs merged while weights are read, as diffusers' `load_lora_weights` and `fuse_lora` do in float32."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, Flux2Transformer2DModel, WanTransformer3DModel
from diffusers.loaders.lora_pipeline import (
    CogVideoXLoraLoaderMixin,
    Flux2LoraLoaderMixin,
    WanLoraLoaderMixin,
)
from numpy.typing import NDArray
from safetensors.torch import save_file

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.lora import Lora
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.tensor_files import StoredTensor
from tests.pipelines.lora_files import Tensors, comfyui, factors, kohya, linears, peft, wan_name, with_alpha

KINDS: dict[str, tuple[Any, Any]] = {
    "tiny_wan21": (WanTransformer3DModel, WanLoraLoaderMixin),
    "tiny_cogvideox": (CogVideoXTransformer3DModel, CogVideoXLoraLoaderMixin),
    "tiny_flux2": (Flux2Transformer2DModel, Flux2LoraLoaderMixin),
}
BLOCKS = r"blocks\.\d+\."


def flux2_name(module: str) -> str:
    for name, original in (
        ("single_transformer_blocks.", "single_blocks."),
        ("transformer_blocks.", "double_blocks."),
        ("attn.to_qkv_mlp_proj", "linear1"),
        ("attn.to_qkv", "img_attn.qkv"),
        ("attn.to_added_qkv", "txt_attn.qkv"),
        ("attn.to_out.0", "img_attn.proj"),
        ("attn.to_out", "linear2"),
        ("attn.to_add_out", "txt_attn.proj"),
        ("ff.linear_in", "img_mlp.0"),
        ("ff.linear_out", "img_mlp.2"),
        ("ff_context.linear_in", "txt_mlp.0"),
        ("ff_context.linear_out", "txt_mlp.2"),
        ("x_embedder", "img_in"),
        ("context_embedder", "txt_in"),
        ("proj_out", "final_layer.linear"),
    ):
        module = module.replace(name, original)
    return module


def wan_peft_alpha(model: torch.nn.Module) -> tuple[Tensors, dict[str, str]]:
    """As peft's own settings say: an alpha for all, and others for some."""
    settings = {
        "transformer.r": 4,
        "transformer.lora_alpha": 3.0,
        "transformer.alpha_pattern": {"attn1.to_q": 6.0},
        "transformer.rank_pattern": {"proj_out": 2},
        "transformer.target_modules": ["attn1.to_q", "attn2.to_v", "proj_out"],
    }
    tensors = peft(factors(linears(model, r"attn1\.to_q|attn2\.to_v")))
    tensors |= peft(factors(linears(model, "proj_out"), rank=2))
    return tensors, {"lora_adapter_metadata": json.dumps(settings)}


def wan_rank_stabilised(model: torch.nn.Module) -> tuple[Tensors, dict[str, str]]:
    settings = {
        "transformer.r": 4,
        "transformer.lora_alpha": 3.0,
        "transformer.use_rslora": True,
        "transformer.target_modules": ["attn1.to_q", "attn2.to_v", "to_k"],
    }
    tensors = peft(factors(linears(model, r"attn1\.to_q|attn2\.to_v|to_k")))
    return tensors, {"lora_adapter_metadata": json.dumps(settings)}


def flux2_fused(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """The modules of FLUX.2 as its authors have them, which fuse queries, keys and values."""
    shapes = {
        name: shape
        for name, shape in linears(model, r"blocks\.\d|x_embedder|proj_out").items()
        if not name.endswith(("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"))
    }
    return shapes | {
        f"transformer_blocks.{block}.attn.{fused}": (384, 128)
        for block in range(2)
        for fused in ("to_qkv", "to_added_qkv")
    }


def lokr(shapes: dict[str, tuple[int, int]], rename: Callable[[str], str]) -> Tensors:
    """Kronecker factors, the second of them as a product, whose alpha counts."""
    generator = torch.Generator().manual_seed(0)
    tensors: Tensors = {}
    for name, (outputs, inputs) in shapes.items():
        for part, shape in (
            ("lokr_w1", (4, 4)),
            ("lokr_w2_a", (outputs // 4, 2)),
            ("lokr_w2_b", (2, inputs // 4)),
        ):
            tensors[f"{rename(name)}.{part}"] = 0.3 * torch.randn(shape, generator=generator)
        tensors[f"{rename(name)}.alpha"] = torch.tensor(1.0)
    return tensors


def only(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    return tensors, {}


# The alphas of a block are heeded by diffusers, and so there are some there alone.
FORMS: dict[str, tuple[str, Callable[[Any], tuple[Tensors, dict[str, str]]]]] = {
    "Wan, PEFT": ("tiny_wan21", lambda model: only(peft(factors(linears(model))))),
    "Wan, PEFT with alphas": ("tiny_wan21", wan_peft_alpha),
    "Wan, PEFT, rank-stabilised": ("tiny_wan21", wan_rank_stabilised),
    "Wan, ComfyUI": ("tiny_wan21", lambda model: only(comfyui(factors(linears(model)), wan_name))),
    "Wan, ComfyUI with alphas": (
        "tiny_wan21",
        lambda model: only(
            with_alpha(comfyui(factors(linears(model)), wan_name, down_up=True), 2.0, ["blocks."])
        ),
    ),
    "Wan, musubi": (
        "tiny_wan21",
        lambda model: only(kohya(factors(linears(model, r"^blocks")), wan_name)),
    ),
    "CogVideoX, PEFT": ("tiny_cogvideox", lambda model: only(peft(factors(linears(model))))),
    "CogVideoX, older names": (
        "tiny_cogvideox",
        lambda model: only(
            {
                name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): tensor
                for name, tensor in peft(factors(linears(model, r"to_[qkv]"))).items()
            }
        ),
    ),
    "FLUX.2, PEFT": ("tiny_flux2", lambda model: only(peft(factors(linears(model))))),
    "FLUX.2, ai-toolkit": (
        "tiny_flux2",
        lambda model: only(comfyui(factors(flux2_fused(model)), flux2_name)),
    ),
    "FLUX.2, kohya": (
        "tiny_flux2",
        lambda model: only(kohya(factors(flux2_fused(model), rank=6), flux2_name, alpha=2)),
    ),
    "FLUX.2, LoKr of ai-toolkit": (
        "tiny_flux2",
        lambda model: only(lokr(flux2_fused(model), lambda name: f"diffusion_model.{flux2_name(name)}")),
    ),
    "FLUX.2, LoKr of LyCORIS": (
        "tiny_flux2",
        lambda model: only(
            lokr(
                linears(model, r"blocks\.\d+\.(attn|ff)"),
                lambda name: f"lycoris_{name.replace('.', '_')}",
            )
        ),
    ),
}


@pytest.fixture
def models(request: pytest.FixtureRequest) -> Callable[[str], tuple[Path, Any]]:
    """A tiny checkpoint by its fixture's name, and diffusers' transformer of it."""

    def model(name: str) -> tuple[Path, Any]:
        folder = request.getfixturevalue(name)
        return folder, KINDS[name][0].from_pretrained(folder / "transformer")

    return model


def saved(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    path = folder / "lora.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def merged(checkpoint: Path, *loras: Lora, component: str = "transformer") -> dict[str, NDArray[Any]]:
    source = Checkpoint(checkpoint).with_loras(loras).weights(component)
    return {name: tensor.read() for name, tensor in source.tensors().items()}


def fused(model: Any, mixin: Any, *loras: tuple[Path, float]) -> dict[str, NDArray[Any]]:
    """What diffusers makes of the same; with queries, keys and values apart again."""
    for number, (path, _) in enumerate(loras):
        state, metadata = mixin.lora_state_dict(str(path), return_lora_metadata=True)
        mixin.load_lora_into_transformer(state, model, adapter_name=f"lora{number}", metadata=metadata)
    model.set_adapters([f"lora{number}" for number in range(len(loras))], [scale for _, scale in loras])
    model.fuse_lora()
    model.unload_lora()
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name in [name for name in weights if ".to_qkv." in name or ".to_added_qkv." in name]:
        fused_name, parts = (
            ("to_qkv", ("to_q", "to_k", "to_v"))
            if ".to_qkv." in name
            else ("to_added_qkv", ("add_q_proj", "add_k_proj", "add_v_proj"))
        )
        for part, share in zip(parts, np.split(weights.pop(name), 3), strict=True):
            weights[name.replace(fused_name, part)] = share
    return weights


def assert_equal(found: dict[str, NDArray[Any]], wanted: dict[str, NDArray[Any]]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_that_diffusers_fuses(
    models: Callable[[str], tuple[Path, Any]], form: str, tmp_path: Path
) -> None:
    name, make = FORMS[form]
    checkpoint, model = models(name)
    path = saved(tmp_path, *make(model))
    found = merged(checkpoint, Lora(str(path), 0.7))
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    wanted = fused(model, KINDS[name][1], (path, 0.7))
    assert_equal(found, wanted)
    assert sum(np.any(found[name] != array) for name, array in before.items()) >= 8


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_two_at_once_add_up_each_with_its_scale(
    models: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    checkpoint, model = models("tiny_wan21")
    paths = []
    for seed, pattern in enumerate(("attn1", "to_q|ffn")):
        (folder := tmp_path / str(seed)).mkdir()
        paths.append(saved(folder, peft(factors(linears(model, pattern), seed))))
    found = merged(checkpoint, Lora(str(paths[0]), 0.7), Lora(str(paths[1]), -1.5))
    assert_equal(found, fused(model, WanLoraLoaderMixin, (paths[0], 0.7), (paths[1], -1.5)))


# ComfyUI's name of a parameter of Wan's, diffusers' name, and the shape of what is added.
WHOLE: dict[str, tuple[str, tuple[int, ...]]] = {
    "blocks.1.norm3.diff": ("blocks.1.norm2.weight", (128,)),
    "blocks.1.norm3.diff_b": ("blocks.1.norm2.bias", (128,)),
    "blocks.0.self_attn.norm_q.diff": ("blocks.0.attn1.norm_q.weight", (128,)),
    "blocks.0.cross_attn.v.diff": ("blocks.0.attn2.to_v.weight", (128, 128)),
    "blocks.0.cross_attn.v.diff_b": ("blocks.0.attn2.to_v.bias", (128,)),
    "blocks.2.modulation.diff": ("blocks.2.scale_shift_table", (1, 6, 128)),
    "patch_embedding.diff": ("patch_embedding.weight", (128, 16, 1, 2, 2)),
    "patch_embedding.diff_b": ("patch_embedding.bias", (128,)),
    "time_projection.1.diff_b": ("condition_embedder.time_proj.bias", (768,)),
    "text_embedding.0.diff_b": ("condition_embedder.text_embedder.linear_1.bias", (128,)),
    "head.head.diff": ("proj_out.weight", (64, 128)),
    "head.head.diff_b": ("proj_out.bias", (64,)),
    "head.modulation.diff": ("scale_shift_table", (1, 2, 128)),
}


def test_what_is_added_to_whole_parameters_is_merged_whatever_they_are(
    models: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    checkpoint, model = models("tiny_wan21")
    generator = torch.Generator().manual_seed(0)
    whole = {name: torch.randn(shape, generator=generator) for name, (_, shape) in WHOLE.items()}
    pairs = comfyui(factors(linears(model, r"blocks\.0\.attn2\.to_v")), wan_name)
    path = saved(tmp_path, pairs | {f"diffusion_model.{name}": tensor for name, tensor in whole.items()})
    found = merged(checkpoint, Lora(str(path), 0.5))
    wanted = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    up, down = (pairs[f"diffusion_model.blocks.0.cross_attn.v.lora_{part}.weight"].numpy() for part in "BA")
    wanted["blocks.0.attn2.to_v.weight"] += 0.5 * (up @ down)
    for name, (parameter, _) in WHOLE.items():
        wanted[parameter] += 0.5 * whole[name].numpy()
    assert_equal(found, wanted)


def test_whole_parameters_alone_will_do_in_the_names_of_either(
    tiny_flux2: Path, tiny_cogvideox: Path, tmp_path: Path
) -> None:
    added = torch.arange(3 * 128 * 128, dtype=torch.float32).reshape(384, 128)
    path = saved(tmp_path, {"diffusion_model.double_blocks.0.img_attn.qkv.diff": added})
    before, after = merged(tiny_flux2), merged(tiny_flux2, Lora(str(path)))
    for number, part in enumerate("qkv"):
        name = f"transformer_blocks.0.attn.to_{part}.weight"
        share = added[128 * number : 128 * (number + 1)].numpy()
        np.testing.assert_allclose(after[name] - before[name], share, rtol=1e-6, atol=1e-2)
    path = saved(tmp_path, {"transformer.transformer_blocks.0.norm1.norm.diff_b": torch.ones(128)})
    before, after = merged(tiny_cogvideox), merged(tiny_cogvideox, Lora(str(path)))
    name = "transformer_blocks.0.norm1.norm.bias"
    np.testing.assert_array_equal(after.pop(name), before.pop(name) + 1)
    assert_equal(after, before)


Q = "blocks.0.attn1.to_q"
ONE = {Q: (128, 128)}


@pytest.mark.parametrize("model", ["tiny_wan22_t2v", "tiny_wan22_i2v"])
@pytest.mark.parametrize(
    ("expert", "own", "changed"),
    [
        (None, ["transformer"], ["transformer", "transformer_2"]),
        ("high", ["transformer"], ["transformer"]),
        ("low", ["transformer"], ["transformer_2"]),
        (None, ["transformer", "transformer_2"], ["transformer", "transformer_2"]),
        (None, ["transformer_2"], ["transformer_2"]),
    ],
)
def test_of_two_experts_each_gets_its_own(
    model: str,
    expert: Any,
    own: list[str],
    changed: list[str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    checkpoint: Path = request.getfixturevalue(model)
    tensors: Tensors = {}
    for seed, component in enumerate(own):
        tensors |= peft(factors(ONE, seed), component)
    lora = Lora(str(saved(tmp_path, tensors)), 1.0, expert)
    for component in ("transformer", "transformer_2"):
        before = merged(checkpoint, component=component)[f"{Q}.weight"]
        after = merged(checkpoint, lora, component=component)[f"{Q}.weight"]
        made = factors(ONE, own.index(component) if component in own else 0)
        added = (made[f"{Q}.lora_B"] @ made[f"{Q}.lora_A"]).numpy() * (component in changed)
        np.testing.assert_allclose(after - before, added, rtol=0, atol=1e-6)


def test_scale_0_is_none(tiny_wan21: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, peft(factors(ONE)))
    checkpoint = Checkpoint(tiny_wan21)
    assert checkpoint.with_loras([Lora(str(path), 0.0)]).weights("transformer").merged is None
    with pytest.raises(RequestError, match="is not there"):
        checkpoint.with_loras([Lora(str(tmp_path / "missing.safetensors"), 0.0)])


def test_only_what_is_merged_is_read_and_nothing_of_it_before(
    tiny_wan21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, peft(factors(ONE)))
    with monkeypatch.context() as patch:
        patch.setattr(StoredTensor, "read", lambda tensor: pytest.fail("read"))
        tensors = Checkpoint(tiny_wan21).with_loras([Lora(str(path))]).weights("transformer").tensors()
    assert [name for name, tensor in tensors.items() if tensor.merged] == [f"{Q}.weight"]
    read: list[Path] = []
    plain = StoredTensor.read

    def reading(tensor: StoredTensor) -> NDArray[Any]:
        read.append(tensor.path)
        return plain(tensor)

    monkeypatch.setattr(StoredTensor, "read", reading)
    tensors[f"{Q}.weight"].read()
    assert read == [tiny_wan21 / "transformer" / "diffusion_pytorch_model.safetensors", path, path]


A, B = f"transformer.{Q}.lora_A.weight", f"transformer.{Q}.lora_B.weight"
PAIR = {A: (4, 128), B: (128, 4)}
FIT = "give a LoRA made for it"


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        (
            PAIR | {f"transformer.{Q}.dora_scale": (128,)},
            f"is a DoRA (transformer.{Q}.dora_scale), of which diffusers would leave out a part; "
            "give a plain LoRA",
        ),
        (
            {f"diffusion_model.{Q}.hada_w1_a": (4, 4)},
            f"is a LoHa (diffusion_model.{Q}.hada_w1_a), which diffusers does not read; give a plain LoRA",
        ),
        (
            {f"diffusion_model.{Q}.lokr_w1": (4, 4)},
            f"is a LoKr (diffusion_model.{Q}.lokr_w1), which diffusers does not read for this model; "
            "give a plain LoRA",
        ),
        (
            PAIR | {"text_encoder.shared.lora_A.weight": (4, 128)},
            "has text_encoder.shared.lora_A.weight for a text encoder, and diffusers merges into this "
            "model's transformer alone; give a LoRA without",
        ),
        (
            {name.replace("blocks.0", "blocks.7"): shape for name, shape in PAIR.items()},
            "has transformer.blocks.7.attn1.to_q.lora_A.weight, which fits no parameter of this model; "
            "give a LoRA made for it",
        ),
        (
            {name.removeprefix("transformer."): shape for name, shape in PAIR.items()},
            f"has {Q}.lora_A.weight, which fits no parameter of this model; {FIT}",
        ),
        (
            PAIR | {"transformer.other": (1,)},
            f"has transformer.other, which fits no parameter of this model; {FIT}",
        ),
        (
            {"diffusion_model.blocks.0.self_attn.norm9.diff": (128,)},
            "has diffusion_model.blocks.0.self_attn.norm9.diff, which fits no parameter of this model; "
            f"{FIT}",
        ),
        (
            {A: (4, 64), B: (128, 4)},
            f"has {A}, which makes [128, 64] of {Q}.weight; in CHECKPOINT/transformer it is [128, 128]: "
            "give a LoRA made for this model",
        ),
        (
            PAIR | {"quantised": (1,)},
            "has quantised in I8; give a LoRA in bfloat16, float16 or float32",
        ),
        ({A: (4, 128)}, f"has {A} without a factor that goes with it: fetch it again"),
        ({A: (4, 128), B: (128, 8)}, f"has {A} without a factor that goes with it: fetch it again"),
        (
            {"lora_unet_blocks_0_self_attn_q.lora_down.weight": (4, 128)},
            "is in no form that diffusers reads for this model "
            "(KeyError: 'blocks_0_self_attn_q.lora_up.weight'); give a LoRA made for it",
        ),
        (
            {name.replace("transformer.", "transformer_2."): shape for name, shape in PAIR.items()},
            "has weights for transformer_2, and this checkpoint has one transformer; "
            "give a LoRA made for this model",
        ),
        ({}, "holds nothing that could be merged; give a LoRA"),
    ],
)
def test_what_would_be_lost_or_wrong_is_refused_by_name(
    tiny_wan21: Path, shapes: dict[str, tuple[int, ...]], why: str, tmp_path: Path
) -> None:
    dtypes = {"quantised": torch.int8}
    tensors = {name: torch.ones(shape, dtype=dtypes.get(name)) for name, shape in shapes.items()}
    path = saved(tmp_path, tensors)
    with pytest.raises(RequestError) as error:
        merged(tiny_wan21, Lora(str(path)))
    assert error.value.field == "loras"
    assert error.value.message == f"{path} {why}".replace("CHECKPOINT", str(tiny_wan21))


def test_settings_that_say_dora_are_refused(tiny_wan21: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, peft(factors(ONE)), {"lora_adapter_metadata": '{"transformer.use_dora": true}'})
    with pytest.raises(RequestError) as error:
        merged(tiny_wan21, Lora(str(path)))
    assert error.value.message == (
        f"{path} is a DoRA (use_dora in lora_adapter_metadata), of which diffusers would leave out a part; "
        "give a plain LoRA"
    )


def test_experts_that_are_none_are_refused(tiny_wan21: Path, tiny_wan22_t2v: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, peft(factors(ONE), "transformer_2"))
    with pytest.raises(RequestError) as error:
        merged(tiny_wan21, Lora(str(path), 1.0, "low"))
    assert error.value.message == (
        f"low:{path}=1 is for one of two experts, and this checkpoint has one; leave low: out"
    )
    with pytest.raises(RequestError) as error:
        merged(tiny_wan22_t2v, Lora(str(path), 1.0, "low"))
    assert error.value.message == f"{path} says itself what is for which expert; leave low: out"


def test_a_file_is_found_by_a_name_of_any_kind(
    tiny_wan21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "loras").mkdir()
    saved(tmp_path / "loras", peft(factors(ONE)))
    for name in ("loras/lora.safetensors", "~/loras/lora.safetensors", "loras", "~/loras"):
        assert np.any(merged(tiny_wan21, Lora(name))[f"{Q}.weight"] != merged(tiny_wan21)[f"{Q}.weight"])
    (tmp_path / "loras" / "other.safetensors").touch()
    (tmp_path / "loras" / "old.pt").touch()
    (tmp_path / "empty").mkdir()
    for name, why in {
        "loras": "loras has 2 .safetensors files; name one: lora.safetensors, other.safetensors",
        "loras/fox.safetensors": "loras/fox.safetensors is not there; the folder loras has "
        "lora.safetensors, other.safetensors; give a file, or a hub id",
        "nowhere/fox.safetensors": "nowhere/fox.safetensors is not there, nor is the folder nowhere; "
        "give a file, or a hub id",
        "loras/old.pt": "loras/old.pt is no .safetensors file; give a LoRA in safetensors",
        "loras/other.safetensors": "loras/other.safetensors is no safetensors file: fetch it again",
        "empty": "empty has no .safetensors file; give a LoRA in safetensors",
    }.items():
        with pytest.raises(RequestError) as error:
            merged(tiny_wan21, Lora(name))
        assert error.value.message == why
