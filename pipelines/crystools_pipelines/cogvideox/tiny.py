"""CogVideoX1.5: a transformer and a VAE whose random weights leave shapes that move."""

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from torch.nn.init import orthogonal_

from crystools_pipelines.tiny.blur import blur
from crystools_pipelines.tiny.text import TEXT_WIDTH, t5_encoder, t5_tokenizer


def tiny_checkpoint() -> CogVideoXPipeline:
    """CogVideoX1.5 text-to-video."""
    tokenizer = t5_tokenizer()
    return CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(vocabulary=len(tokenizer)),
        transformer=cogvideox_transformer(),
        vae=cogvideox_vae(),
        scheduler=CogVideoXDPMScheduler(
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
        ),
    )


def cogvideox_transformer() -> CogVideoXTransformer3DModel:
    """Predicts the velocity away from the average of neighbouring patches, so that large shapes remain."""
    model = CogVideoXTransformer3DModel(
        num_attention_heads=8,
        attention_head_dim=16,
        text_embed_dim=TEXT_WIDTH,
        time_embed_dim=64,
        num_layers=4,
        sample_height=300,
        sample_width=300,
        sample_frames=81,
        patch_size_t=2,
        patch_bias=False,
        use_rotary_positional_embeddings=True,
    ).eval()
    patches = orthogonal_(model.patch_embed.proj.weight)  # [width, patch]
    model.proj_out.weight.copy_(-0.6 * patches.T)
    orthogonal_(model.patch_embed.text_proj.weight, gain=3)
    for block in model.transformer_blocks:
        _, _, gate, _, _, text_gate = block.norm1.linear.bias.chunk(6)
        gate += 1
        text_gate += 1
        # A bias shared by queries and keys makes attention, after its rotation, fall off with distance.
        neighbours = 1.5 * torch.randn_like(block.attn1.norm_q.bias)
        block.attn1.norm_q.bias.copy_(neighbours)
        block.attn1.norm_k.bias.copy_(neighbours)
        block.attn1.to_out[0].weight.copy_(orthogonal_(block.attn1.to_v.weight).T)
    return model


def cogvideox_vae() -> AutoencoderKLCogVideoX:
    """Blurs in space and time at every convolution, mixes channels at random and adds no constant colour."""
    model = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=0.7
    ).eval()
    for name, convolution in model.named_modules():
        if isinstance(convolution, torch.nn.Conv2d | torch.nn.Conv3d):
            blur(convolution)
        if name.endswith(("conv_y.conv", "conv_b.conv")):  # the norms' modulation: faint, or its blocks show
            convolution.weight *= 0.1
            convolution.bias.fill_(name.endswith("conv_y.conv"))
    return model
