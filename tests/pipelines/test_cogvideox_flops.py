"""CogVideoX's FLOPs, against torch's own counter on the full-size models (which live on the meta device)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5EncoderModel

from crystools_pipelines.cogvideox import costs
from crystools_pipelines.cogvideox.vae import turns

# transformer/config.json of zai-org/CogVideoX1.5-5B; what it leaves out is the class's default.
TRANSFORMER_5B = {
    "attention_bias": True,
    "attention_head_dim": 64,
    "in_channels": 16,
    "max_text_seq_length": 226,
    "num_attention_heads": 48,
    "num_layers": 42,
    "out_channels": 16,
    "patch_bias": False,
    "patch_size": 2,
    "patch_size_t": 2,
    "sample_frames": 81,
    "sample_height": 300,
    "sample_width": 300,
    "text_embed_dim": 4096,
    "time_embed_dim": 512,
    "use_rotary_positional_embeddings": True,
}
# text_encoder/config.json of the same: T5 v1.1 XXL.
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
LATENTS_720P = (1, 22, 16, 90, 160)  # 720x1280, 81 frames: 21 latent ones and one of padding
TEXT_TOKENS = 226


@pytest.fixture(scope="module")
def transformer() -> Any:
    with torch.device("meta"):
        return CogVideoXTransformer3DModel(**TRANSFORMER_5B)


def counted_by_torch(function: Any, *args: torch.Tensor, **kwargs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*args, **kwargs)
    return int(counter.get_total_flops())


def test_transformer_5b_at_720p_81_frames_is_1_198_pflop(transformer: Any) -> None:
    counted = costs.transformer(transformer.config, LATENTS_720P, TEXT_TOKENS).flops
    assert counted == pytest.approx(1.198e15, rel=1e-3)


@pytest.mark.parametrize("latent_shape", [LATENTS_720P, (2, 6, 16, 32, 48)])
def test_transformer_flops_are_torchs(transformer: Any, latent_shape: costs.LatentShape) -> None:
    batch, frames, _, height, width = latent_shape
    rotary = torch.empty(frames * height * width // 8, 64, device="meta")
    counted = counted_by_torch(
        transformer,
        hidden_states=torch.empty(latent_shape, device="meta"),
        timestep=torch.empty(batch, device="meta"),
        encoder_hidden_states=torch.empty(batch, TEXT_TOKENS, 4096, device="meta"),
        image_rotary_emb=(rotary, rotary),
    )
    assert costs.transformer(transformer.config, latent_shape, TEXT_TOKENS).flops == counted


def test_transformer_parameters_are_the_models(transformer: Any) -> None:
    counted = sum(parameter.numel() for parameter in transformer.parameters())
    assert costs.transformer_parameters(transformer.config) == counted


def test_transformer_bytes_are_weights_once_and_the_activations_between_sublayers(transformer: Any) -> None:
    tokens, width, layers = TEXT_TOKENS + 11 * 45 * 80, 3072, 42
    per_layer = 2 * 2 * tokens * width + 2 * 2 * tokens * width
    latents = 2 * 16 * 22 * 90 * 160
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    moved = costs.transformer(transformer.config, LATENTS_720P, TEXT_TOKENS).moved_bytes(2)
    assert moved == 2 * (parameters + layers * per_layer + latents)


def test_text_encoder_flops_are_torchs() -> None:
    config = T5Config(**T5_XXL)
    with torch.device("meta"):
        t5 = T5EncoderModel(config)
    counted = counted_by_torch(t5, torch.zeros(2, TEXT_TOKENS, dtype=torch.long, device="meta"))
    assert costs.text_encoder(config.to_dict(), 2, TEXT_TOKENS).flops == counted


@pytest.mark.parametrize(("frames", "height", "width"), [(21, 90, 160), (6, 20, 30), (1, 60, 90)])
def test_vae_decode_flops_are_torchs(frames: int, height: int, width: int) -> None:
    with torch.device("meta"):
        vae = AutoencoderKLCogVideoX()  # its defaults are the published configuration
    counted = counted_by_torch(vae.decode, torch.empty(1, 16, frames, height, width, device="meta"))
    of_turns = (costs.vae_turn(vae.config, turn, height * width, first=False) for turn in turns(frames))
    assert sum(turn.flops for turn in of_turns) == counted
