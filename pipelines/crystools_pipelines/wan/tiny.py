"""Wan: a transformer and a VAE whose random weights leave shapes that move."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from torch.nn.init import orthogonal_, zeros_

from crystools_pipelines.tiny.blur import blur
from crystools_pipelines.tiny.text import TEXT_WIDTH, t5_tokenizer, umt5_encoder


def wan_components(condition_channels: int = 0, transformers: int = 1) -> dict[str, Any]:
    """The components of a model of the family; a condition's channels follow those of the latents."""
    tokenizer = t5_tokenizer()
    names = ["transformer", "transformer_2"][:transformers]
    return {
        "tokenizer": tokenizer,
        "text_encoder": umt5_encoder(vocabulary=len(tokenizer)),
        **{name: wan_transformer(condition_channels) for name in names},
        "vae": wan_vae(),
        "scheduler": flow_scheduler(),
    }


def flow_scheduler() -> UniPCMultistepScheduler:
    """The scheduler that Wan is published with."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )


def wan_transformer(condition_channels: int = 0) -> WanTransformer3DModel:
    """Predicts the noise less its own average over neighbouring patches, so that large shapes remain."""
    model = WanTransformer3DModel(
        num_attention_heads=8,
        attention_head_dim=16,
        in_channels=16 + condition_channels,
        out_channels=16,
        text_dim=TEXT_WIDTH,
        ffn_dim=256,
        num_layers=4,
    ).eval()
    patches = orthogonal_(model.patch_embedding.weight)[:, :16]  # [width, channels, 1, 2, 2]
    model.proj_out.weight.copy_(0.6 * patches.permute(2, 3, 4, 1, 0).flatten(0, 3))
    for block in model.blocks:
        block.scale_shift_table[:, [2, 5]] += 1  # open the gates of self-attention and feed-forward
        # A bias shared by queries and keys makes attention, after its rotation, fall off with distance.
        neighbours = 2 * torch.randn_like(block.attn1.to_q.bias)
        block.attn1.to_q.bias.copy_(neighbours)
        block.attn1.to_k.bias.copy_(neighbours)
        block.attn1.to_out[0].weight.copy_(-orthogonal_(block.attn1.to_v.weight).T)
        orthogonal_(block.attn2.to_v.weight, gain=2)
        zeros_(block.attn2.to_v.bias)
    # The padding of a prompt is zeros and most of its tokens: without biases it says nothing, however long.
    text = model.condition_embedder.text_embedder
    zeros_(text.linear_1.bias)
    orthogonal_(text.linear_2.weight, gain=2)
    zeros_(text.linear_2.bias)
    return model


def wan_vae() -> AutoencoderKLWan:
    """Blurs in space and time at every convolution, mixes channels at random and adds no constant colour."""
    model = AutoencoderKLWan(base_dim=8, num_res_blocks=1).eval()
    for name, convolution in model.named_modules():
        if isinstance(convolution, torch.nn.Conv2d | torch.nn.Conv3d):
            doubles_time = name.startswith("decoder") and name.endswith("time_conv")
            blur(convolution, repeat_channels=doubles_time)
    centre = model.post_quant_conv.weight.flatten(1) @ torch.tensor(model.config.latents_mean)
    model.post_quant_conv.bias.copy_(-centre)
    return model
