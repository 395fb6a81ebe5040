"""Wan2.2 A14B's FLOPs, against torch's own counter on the full-size models, on the meta device."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from crystools_pipelines.parallel.sharding import match
from crystools_pipelines.wan import costs
from crystools_pipelines.wan.wan22_i2v.costs import vae_encode
from crystools_pipelines.wan.wan22_i2v.encoder import VAE_ENCODER, FrameEncoder

# transformer/config.json of Wan-AI/Wan2.2-I2V-A14B-Diffusers; transformer_2's is the same.
TRANSFORMER = {
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 36,
    "num_attention_heads": 40,
    "num_layers": 40,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "pos_embed_seq_len": None,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}
LATENTS_720P = (1, 16, 21, 90, 160)  # 720x1280, 81 frames


@pytest.fixture(scope="module")
def vae() -> Any:
    """AutoencoderKLWan's defaults are the published configuration."""
    with torch.device("meta"):
        return AutoencoderKLWan()


def test_transformer_flops_and_parameters_are_torchs() -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel.from_config(TRANSFORMER)
        latents = torch.empty(1, 36, 21, 90, 160)
        text = torch.empty(1, 512, 4096)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            transformer(hidden_states=latents, timestep=torch.empty(1), encoder_hidden_states=text)
    assert costs.transformer(TRANSFORMER, LATENTS_720P, 512).flops == counter.get_total_flops()
    assert costs.transformer_parameters(TRANSFORMER) == sum(p.numel() for p in transformer.parameters())


@pytest.mark.parametrize("latent_shape", [LATENTS_720P, (1, 16, 1, 60, 104), (2, 16, 3, 32, 48)])
def test_vae_encode_flops_are_torchs(vae: Any, latent_shape: costs.LatentShape) -> None:
    batch, _, frames, height, width = latent_shape
    video = torch.empty(batch, 3, 4 * frames - 3, 8 * height, 8 * width, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.encode(video)
    assert sum(frame.flops for frame in vae_encode(vae.config, latent_shape)) == counter.get_total_flops()


def test_every_parameter_of_the_encoder_has_a_rule(vae: Any) -> None:
    names = [name for name, _ in FrameEncoder(vae).named_parameters()]
    assert len(match(VAE_ENCODER, names)) == len(names) > 0
