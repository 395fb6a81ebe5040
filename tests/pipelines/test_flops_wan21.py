"""Wan2.1's FLOPs, against torch's own counter on the full-size models (which live on the meta device)."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import UMT5Config, UMT5EncoderModel

from crystools_pipelines.wan import costs

LATENTS_480P = (1, 16, 21, 60, 104)
LATENTS_720P = (1, 16, 21, 90, 160)  # 720x1280, 81 frames
TEXT_TOKENS = 512


@pytest.fixture(scope="module")
def transformer() -> Any:
    """WanTransformer3DModel's defaults are the 14B model's configuration."""
    with torch.device("meta"):
        return WanTransformer3DModel()


@pytest.fixture(scope="module")
def vae() -> Any:
    with torch.device("meta"):
        return AutoencoderKLWan()


@pytest.fixture(scope="module")
def umt5_xxl() -> Any:
    config = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    with torch.device("meta"):
        return UMT5EncoderModel(config)


def counted_by_torch(function: Any, *args: torch.Tensor, **kwargs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*args, **kwargs)
    return int(counter.get_total_flops())


def test_transformer_14b_at_720p_81_frames_is_6_523_pflop(transformer: Any) -> None:
    cost = costs.transformer(transformer.config, LATENTS_720P, TEXT_TOKENS)
    assert cost.flops == pytest.approx(6.523e15, rel=1e-3)


@pytest.mark.parametrize("latent_shape", [LATENTS_720P, LATENTS_480P, (2, 16, 5, 32, 48)])
def test_transformer_flops_are_torchs(transformer: Any, latent_shape: costs.LatentShape) -> None:
    batch = latent_shape[0]
    counted = counted_by_torch(
        transformer,
        hidden_states=torch.empty(latent_shape, device="meta"),
        timestep=torch.empty(batch, device="meta"),
        encoder_hidden_states=torch.empty(batch, TEXT_TOKENS, 4096, device="meta"),
    )
    assert costs.transformer(transformer.config, latent_shape, TEXT_TOKENS).flops == counted


def test_transformer_parameters_are_the_models(transformer: Any) -> None:
    counted = sum(parameter.numel() for parameter in transformer.parameters())
    assert counted == 14_288_491_584
    assert costs.transformer_parameters(transformer.config) == counted


def test_transformer_bytes_are_weights_once_and_the_activations_between_sublayers(transformer: Any) -> None:
    tokens, width, layers = 21 * 45 * 80, 5120, 40
    per_layer = 3 * 2 * tokens * width + 2 * 2 * (tokens + TEXT_TOKENS) * width
    latents = 2 * 16 * 21 * 90 * 160
    moved = costs.transformer(transformer.config, LATENTS_720P, TEXT_TOKENS).moved_bytes(2)
    assert moved == 2 * (14_288_491_584 + layers * per_layer + latents)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 512), (2, 226)])
def test_text_encoder_flops_are_torchs(umt5_xxl: Any, batch: int, tokens: int) -> None:
    counted = counted_by_torch(umt5_xxl, torch.zeros(batch, tokens, dtype=torch.long, device="meta"))
    assert costs.text_encoder(umt5_xxl.config.to_dict(), batch, tokens).flops == counted


@pytest.mark.parametrize("latent_shape", [LATENTS_720P, (1, 16, 1, 60, 104), (2, 16, 3, 32, 48)])
def test_vae_decode_flops_are_torchs(vae: Any, latent_shape: costs.LatentShape) -> None:
    counted = counted_by_torch(vae.decode, torch.empty(latent_shape, device="meta"))
    assert sum(frame.flops for frame in costs.vae_decode(vae.config, latent_shape)) == counted
