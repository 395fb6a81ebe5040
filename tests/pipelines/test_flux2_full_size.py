"""FLUX.2 in full size, on the meta device: FLOPs are those of torch's counter, every weight has its place."""

from math import prod
from pathlib import Path
from typing import Any

import jax
import pytest
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Mistral3Config, MistralConfig, MistralModel

from crystools_pipelines.flux2 import costs, sharding
from crystools_pipelines.flux2.text import LAYERS, build_prompt_encoder
from crystools_pipelines.flux2.transformer import build_transformer
from crystools_pipelines.flux2.vae import build_decoder
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.parallel.sharding import Rules, match

TEXT_TOKENS = 512

# What the configurations of black-forest-labs/FLUX.2-dev say: the transformer's and the VAE's are diffusers'
# defaults for their classes, the text encoder's are transformers' defaults for Mistral3Config.
TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 128,
    "out_channels": None,
    "num_layers": 8,
    "num_single_layers": 48,
    "attention_head_dim": 128,
    "num_attention_heads": 48,
    "joint_attention_dim": 15360,
    "timestep_guidance_channels": 256,
    "mlp_ratio": 3.0,
    "axes_dims_rope": (32, 32, 32, 32),
    "rope_theta": 2000,
    "eps": 1e-6,
    "guidance_embeds": True,
}
TEXT_ENCODER = {
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "vocab_size": 131072,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 32,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "out_channels": 3,
    "use_post_quant_conv": True,
}


@pytest.fixture(scope="module")
def transformer() -> Any:
    with torch.device("meta"):
        return Flux2Transformer2DModel(**TRANSFORMER)


def counted_by_torch(function: Any, *args: torch.Tensor, **kwargs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        function(*args, **kwargs)
    return int(counter.get_total_flops())


def test_a_step_at_1024_is_0_2826_pflop(transformer: Any) -> None:
    assert costs.transformer(TRANSFORMER, 64 * 64, TEXT_TOKENS).flops == pytest.approx(0.2826e15, rel=1e-3)


@pytest.mark.parametrize("image_tokens", [64 * 64, 16 * 128])
def test_transformer_flops_are_torchs(transformer: Any, image_tokens: int) -> None:
    counted = counted_by_torch(
        transformer,
        hidden_states=torch.empty(1, image_tokens, 128, device="meta"),
        encoder_hidden_states=torch.empty(1, TEXT_TOKENS, 15360, device="meta"),
        timestep=torch.empty(1, device="meta"),
        guidance=torch.empty(1, device="meta"),
        img_ids=torch.empty(image_tokens, 4, device="meta"),
        txt_ids=torch.empty(TEXT_TOKENS, 4, device="meta"),
    )
    assert costs.transformer(TRANSFORMER, image_tokens, TEXT_TOKENS).flops == counted


def test_transformer_parameters_are_the_models(transformer: Any) -> None:
    counted = sum(parameter.numel() for parameter in transformer.parameters())
    assert costs.transformer_parameters(TRANSFORMER) == counted == 32_223_281_152


def test_transformer_bytes_are_weights_once_and_the_activations_between_sublayers() -> None:
    tokens, width = 64 * 64 + TEXT_TOKENS, 6144
    activations = (8 * (2 * 2 + 2 * 2) + 48 * (2 + 2 * 2)) * tokens * width
    moved = costs.transformer(TRANSFORMER, 64 * 64, TEXT_TOKENS).moved_bytes(2)
    assert moved == 2 * (costs.transformer_parameters(TRANSFORMER) + activations + 2 * 128 * 64 * 64)


def test_text_encoder_flops_are_torchs_for_the_layers_that_are_used() -> None:
    with torch.device("meta"):
        model = MistralModel(MistralConfig(**TEXT_ENCODER | {"num_hidden_layers": LAYERS[-1]}))
    ids = torch.zeros(1, TEXT_TOKENS, dtype=torch.long, device="meta")
    assert costs.text_encoder(TEXT_ENCODER, TEXT_TOKENS, LAYERS).flops == counted_by_torch(model, ids)


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (32, 96)])
def test_vae_decode_flops_are_torchs(rows: int, columns: int) -> None:
    with torch.device("meta"):
        vae = AutoencoderKLFlux2(**VAE)
    counted = counted_by_torch(vae.decode, torch.empty(1, 32, rows, columns, device="meta"))
    assert costs.vae_decode(VAE, rows * columns).flops == counted


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    mesh = make_mesh(jax.devices()[:8], branches=1, widths=sharding.widths(TRANSFORMER, TEXT_ENCODER))
    assert dict(mesh.shape) == {"data": 1, "sequence": 1, "tensor": 8}
    return mesh


def replicated_share(module: torch.nn.Module, rules: Rules) -> float:
    """Which share of the parameters every device would hold whole."""
    depths = {
        f"{prefix}.layer.": layers.depth
        for prefix, layers in module.named_modules()
        if isinstance(layers, ScannedLayers)
    }
    specs = match(rules, [name for name, _ in module.named_parameters()])
    counts = {
        name: parameter.numel() * prod(depth for prefix, depth in depths.items() if name.startswith(prefix))
        for name, parameter in module.named_parameters()
    }
    return sum(count for name, count in counts.items() if not any(specs[name])) / sum(counts.values())


def test_every_weight_of_the_transformer_is_placed_and_hardly_any_replicated(
    transformer: Any, mesh: jax.sharding.Mesh, tmp_path: Path
) -> None:
    transformer.save_config(tmp_path)
    model = build_transformer(tmp_path, mesh)
    assert model.transformer_blocks.depth == 8
    assert model.single_transformer_blocks.depth == 48
    assert replicated_share(model, sharding.TRANSFORMER) < 1e-3


def test_every_weight_of_the_text_encoder_that_is_used_is_placed(tmp_path: Path) -> None:
    Mistral3Config(text_config=TEXT_ENCODER | {"model_type": "mistral"}).save_pretrained(tmp_path)
    encoder = build_prompt_encoder(tmp_path, make_mesh(jax.devices()[:1], branches=1, widths=(1,)))
    assert not [name for name, _ in encoder.named_parameters() if "lm_head" in name or "vision" in name]
    assert replicated_share(encoder, sharding.TEXT_ENCODER) < 1e-3


def test_every_weight_of_the_decoder_is_placed_and_no_encoder_is_loaded(
    mesh: jax.sharding.Mesh, tmp_path: Path
) -> None:
    with torch.device("meta"):
        AutoencoderKLFlux2(**VAE).save_config(tmp_path)
    decoder = build_decoder(tmp_path, mesh)
    assert match(sharding.VAE, [name for name, _ in decoder.named_parameters()])
    assert not list(decoder.buffers())
