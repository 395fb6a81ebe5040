"""A checkpoint of another model, or one that says more than the model reads, is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from crystools_pipelines.cogvideox.nodes import CogVideoXTPUVAEDecoder
from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.flux2.nodes import FluxTPUVAEDecoder
from crystools_pipelines.models import MODELS
from crystools_pipelines.nodes.handed import Latents
from crystools_pipelines.requests.request import Size
from crystools_pipelines.wan.wan21_t2v.nodes import Wan21TPUVAEDecoder
from crystools_pipelines.wan.wan22_i2v.nodes import Wan22I2VTPUVAEDecoder
from crystools_pipelines.wan.wan22_t2v.nodes import Wan22T2VTPUVAEDecoder
from crystools_pipelines.weights.checkpoint import Checkpoint

WAN_EXPERT = ["diffusers", "WanTransformer3DModel"]
TWO_DO = ", or use wan2.2-t2v"


def refusal(model: str, folder: Path) -> str:
    """What a run or a plan of the model says of the checkpoint before all else; empty where it goes on."""
    pipeline, request_class = MODELS[model].pipeline(), MODELS[model].request_class()
    image = {"image": np.zeros((16, 16, 3), np.float32)} if model == "wan2.2-i2v" else {}
    request, checkpoint = request_class("a boat", **image), Checkpoint(folder)
    try:
        pipeline.check(checkpoint)
        pipeline.prepare(request, checkpoint)
        pipeline.mesh(jax.devices()[:1], checkpoint, request.branches)
    except CheckpointError as error:
        said = str(error).replace(str(folder), "HERE")
    else:
        said = ""
    assert len(said.splitlines()) <= 1
    return said


def published(model: str, folder: Path, **changes: dict[str, Any]) -> Path:
    """The published configurations, with changes by component; None takes a component away."""
    MODELS[model].write_published(folder)
    for component, values in changes.items():
        file = {"model_index": "model_index.json"}.get(component, f"{component}/config.json")
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))
    return folder


@pytest.mark.parametrize("model", MODELS)
def test_the_published_checkpoints_are_taken(model: str, tmp_path: Path) -> None:
    assert refusal(model, published(model, tmp_path)) == ""


@pytest.mark.parametrize(
    ("index", "means", "other"),
    [
        ({"transformer_2": WAN_EXPERT, "boundary_ratio": 0.875}, "two experts, as Wan2.2 has them", TWO_DO),
        ({"boundary_ratio": 0.9}, "a boundary between two experts", TWO_DO),
        ({"expand_timesteps": True}, "a timestep for each token, as Wan2.2 5B has them", ""),
    ],
)
def test_what_a_pipeline_would_heed_and_we_do_not_is_refused(
    tmp_path: Path, index: dict[str, Any], means: str, other: str
) -> None:
    said = refusal("wan2.1-t2v", published("wan2.1-t2v", tmp_path, model_index=index))
    assert said.startswith(f"HERE is of WanPipeline with {means}")
    assert all(name in said for name in index)
    assert said.endswith(f"give a checkpoint such as Wan-AI/Wan2.1-T2V-14B-Diffusers{other}")


@pytest.mark.parametrize(
    "index",
    [
        {"transformer_2": [None, None], "boundary_ratio": None, "expand_timesteps": False},
        {"made_with": "a trainer of mine", "version": 3},
        {"image_processor": ["transformers", "CLIPImageProcessor"]},
    ],
)
def test_what_no_pipeline_would_heed_may_be_there(tmp_path: Path, index: dict[str, Any]) -> None:
    assert refusal("wan2.1-t2v", published("wan2.1-t2v", tmp_path, model_index=index)) == ""


def test_another_models_component_is_refused_though_the_pipeline_is_the_same(tmp_path: Path) -> None:
    image_encoder = {"image_encoder": ["transformers", "CLIPVisionModel"]}
    said = refusal("wan2.2-i2v", published("wan2.2-i2v", tmp_path, model_index=image_encoder))
    assert said.startswith(
        "HERE is of WanImageToVideoPipeline with an image encoder (image_encoder in model_i"
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("other", MODELS)
def test_each_models_checkpoint_is_one_line_to_the_others_that_names_who_takes_it(
    tmp_path: Path, model: str, other: str
) -> None:
    if model == other:
        return
    said = refusal(model, published(other, tmp_path))
    class_name = MODELS[other].published()["model_index"]["_class_name"]
    assert said.startswith(f"HERE is of {class_name}")
    assert said.endswith(f"give a checkpoint such as {MODELS[model].hub_id}, or use {other}")


@pytest.mark.parametrize(
    ("model", "component", "values", "message"),
    [
        ("wan2.1-t2v", "vae", {"z_dim": 48}, "the VAE's latent channels are 48, wan2.1-t2v takes 16"),
        ("wan2.2-i2v", "vae", {"patch_size": 2}, "the VAE's patch is 2, wan2.2-i2v takes None"),
        ("cogvideox-t2v", "vae", {"latent_channels": 4}, "the VAE's latent channels are 4, cogvideox-t2v ta"),
        ("flux.2", "vae", {"latent_channels": 16}, "the VAE's latent channels are 16, flux.2 takes 32"),
        ("wan2.1-t2v", "transformer", {"text_dim": 5120}, "text width is 5120, wan2.1-t2v takes 4096"),
        ("wan2.1-t2v", "transformer", {"image_dim": 1280}, "image width is 1280, wan2.1-t2v takes None"),
        ("flux.2", "transformer", {"joint_attention_dim": 7680}, "text width is 7680, flux.2 takes 15360"),
        ("cogvideox-t2v", "transformer", {"text_embed_dim": 1024}, "text width is 1024, cogvideox-t2v take"),
        (
            "wan2.1-t2v",
            "transformer",
            {"_class_name": "WanVACETransformer3DModel"},
            "its transformer is WanVACETransformer3DModel, wan2.1-t2v takes WanTransformer3DModel",
        ),
        ("wan2.1-t2v", "text_encoder", {"model_type": "t5"}, "its text_encoder is t5, wan2.1-t2v takes umt5"),
        (
            "flux.2",
            "text_encoder",
            {"model_type": "qwen3"},
            "its text_encoder is qwen3, flux.2 takes mistral3",
        ),
        (
            "flux.2",
            "vae",
            {"_class_name": "AutoencoderKL"},
            "its vae is AutoencoderKL, flux.2 takes Autoenco",
        ),
        (
            "wan2.1-t2v",
            "vae",
            {"_class_name": None},
            "its vae is of no class, wan2.1-t2v takes AutoencoderKL",
        ),
    ],
)
def test_a_component_of_another_class_or_width_is_named(
    tmp_path: Path, model: str, component: str, values: dict[str, Any], message: str
) -> None:
    said = refusal(model, published(model, tmp_path, **{component: values}))
    assert message in said
    assert said.endswith(f"give a checkpoint such as {MODELS[model].hub_id}")


@pytest.mark.parametrize(
    ("model", "component", "quantisation", "how"),
    [
        ("wan2.1-t2v", "transformer", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ("flux.2", "text_encoder", {"quant_method": "torchao", "quant_type": "int8wo"}, "torchao"),
        ("cogvideox-t2v", "text_encoder", {"quant_method": "gguf"}, "gguf"),
        ("wan2.2-i2v", "vae", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt"),
        ("wan2.1-t2v", "text_encoder", {"bits": 4}, "an unknown method"),
    ],
)
def test_a_quantised_component_is_refused_by_name(
    tmp_path: Path, model: str, component: str, quantisation: dict[str, Any], how: str
) -> None:
    folder = published(model, tmp_path, **{component: {"quantization_config": quantisation}})
    assert refusal(model, folder) == (
        f"HERE: its {component} is quantised with {how} (quantization_config in config.json); "
        "give a checkpoint in bfloat16, float16 or float32"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x01"])
def test_a_configuration_that_is_broken_is_named(tmp_path: Path, content: str) -> None:
    folder = published("wan2.1-t2v", tmp_path)
    (folder / "vae/config.json").write_text(content)
    assert refusal("wan2.1-t2v", folder).startswith("HERE/vae/config.json is no")


def test_a_component_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = published("wan2.1-t2v", tmp_path)
    (folder / "vae/config.json").unlink()
    assert refusal("wan2.1-t2v", folder) == "HERE has no vae/config.json: it is not in diffusers' format"


def decode_with(model: str, folder: Path) -> None:
    """The model's decoder node, with latents of nothing."""
    nodes: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "wan2.1-t2v": (Wan21TPUVAEDecoder, {"model_id": str(folder), "fps": 16}),
        "wan2.2-t2v": (Wan22T2VTPUVAEDecoder, {"model_id": str(folder), "fps": 16}),
        "wan2.2-i2v": (Wan22I2VTPUVAEDecoder, {"model_id": str(folder), "fps": 16}),
        "cogvideox-t2v": (CogVideoXTPUVAEDecoder, {"fps": 16}),
        "flux.2": (FluxTPUVAEDecoder, {"model_id": str(folder), "height": 256, "width": 256}),
    }
    node, inputs = nodes[model]
    latents = Latents(model, str(folder), np.zeros((1, 1), np.float32), Size(256, 256))
    getattr(node(), node.FUNCTION)(latents, **inputs)


@pytest.mark.parametrize("model", MODELS)
def test_a_node_refuses_the_component_that_it_uses_and_no_other(tmp_path: Path, model: str) -> None:
    channels = "z_dim" if model.startswith("wan") else "latent_channels"
    folder = published(model, tmp_path, vae={channels: 48})
    with pytest.raises(CheckpointError, match=f"the VAE's latent channels are 48, {model} takes"):
        decode_with(model, folder)
    pipeline, checkpoint = MODELS[model].pipeline(), Checkpoint(folder)
    image = {"image": np.zeros((16, 16, 3), np.float32)} if model == "wan2.2-i2v" else {}
    pipeline.prepare(MODELS[model].request_class()("a boat", **image), checkpoint)  # as its sampler does
