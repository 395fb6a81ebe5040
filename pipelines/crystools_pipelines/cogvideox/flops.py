"""Model FLOPs and bytes of CogVideoX, from the architecture alone.

A product of [m, k] and [k, n] is 2*m*k*n FLOPs, a convolution likewise; attention is its two products.
Element-wise work is left out, as in torch.utils.flop_counter. A `config` is the mapping in the component's
`config.json`.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from crystools_pipelines.wan21.flops import text_encoder_flops

__all__ = [
    "text_encoder_flops",
    "transformer_forward_bytes",
    "transformer_forward_flops",
    "transformer_parameters",
    "vae_turn_flops",
]

Config = Mapping[str, Any]
LatentShape = tuple[int, int, int, int, int]  # batch, frames, channels, height, width


def transformer_forward_flops(config: Config, latent_shape: LatentShape, text_tokens: int) -> float:
    """FLOPs of one forward of CogVideoXTransformer3DModel; `text_tokens` a sample, padding included."""
    batch, video_tokens, width = latent_shape[0], _video_tokens(config, latent_shape), _width(config)
    tokens, time_width, patch = text_tokens + video_tokens, config["time_embed_dim"], _patch(config)
    layer = (
        4 * _matmul(tokens, width, width)
        + 2 * _matmul(tokens, width, tokens)
        + 2 * _matmul(tokens, width, 4 * width)
        + 2 * _matmul(1, time_width, 6 * width)
    )
    embeddings = (
        _matmul(video_tokens, config["in_channels"] * patch, width)
        + _matmul(text_tokens, config["text_embed_dim"], width)
        + _matmul(1, width, time_width)
        + _matmul(1, time_width, time_width)
    )
    output = _matmul(1, time_width, 2 * width) + _matmul(video_tokens, width, config["out_channels"] * patch)
    return float(batch * (config["num_layers"] * layer + embeddings + output))


def transformer_forward_bytes(
    config: Config, latent_shape: LatentShape, text_tokens: int, bytes_per_parameter: int
) -> float:
    """Bytes that one forward must move to or from HBM, however well each sublayer is fused.

    All weights once; in every layer the hidden states, read and written by each of the two sublayers, and the
    keys and values, written and read; the latents in and out. Queries, scores and the inner feed-forward
    activations need never leave the chip. Activations count `bytes_per_parameter` too.
    """
    batch, video_tokens = latent_shape[0], _video_tokens(config, latent_shape)
    layer = batch * (2 * 2 + 2 * 2) * (text_tokens + video_tokens) * _width(config)
    latents = batch * video_tokens * (config["in_channels"] + config["out_channels"]) * _patch(config)
    elements = transformer_parameters(config) + config["num_layers"] * layer + latents
    return float(elements * bytes_per_parameter)


def transformer_parameters(config: Config) -> int:
    """The number of parameters of CogVideoXTransformer3DModel in version 1.5."""
    width, time_width, patch = _width(config), config["time_embed_dim"], _patch(config)
    modulated_norm = _linear(time_width, 6 * width) + 2 * width
    attention = 4 * _linear(width, width) + 2 * 2 * config["attention_head_dim"]
    feed_forward = _linear(width, 4 * width) + _linear(4 * width, width)
    layer = 2 * modulated_norm + attention + feed_forward
    embeddings = (
        _linear(config["in_channels"] * patch, width)
        + _linear(config["text_embed_dim"], width)
        + _linear(width, time_width)
        + _linear(time_width, time_width)
    )
    norms = 2 * width + _linear(time_width, 2 * width) + 2 * width
    output = _linear(width, config["out_channels"] * patch)
    return int(config["num_layers"] * layer + embeddings + norms + output)


def vae_turn_flops(config: Config, frames: int, height: int, width: int) -> float:
    """FLOPs of AutoencoderKLCogVideoX's decoder on the `frames` latent frames that it decodes in one turn."""
    latent_channels = config["latent_channels"]
    level_channels = list(reversed(config["block_out_channels"]))
    doublings_of_time = config["temporal_compression_ratio"].bit_length() - 1
    channels, pixels = level_channels[0], height * width

    def norm(positions: int, channels: int) -> int:
        return 2 * _conv(positions, latent_channels, channels, 1)

    def residual_block(positions: int, inputs: int, outputs: int) -> int:
        convolutions = _conv(positions, inputs, outputs, 27) + _conv(positions, outputs, outputs, 27)
        shortcut = _conv(positions, inputs, outputs, 1) if inputs != outputs else 0
        return norm(positions, inputs) + norm(positions, outputs) + convolutions + shortcut

    flops = _conv(frames * pixels, latent_channels, channels, 27)
    flops += 2 * residual_block(frames * pixels, channels, channels)
    for level, outputs in enumerate(level_channels):
        flops += residual_block(frames * pixels, channels, outputs)
        flops += config["layers_per_block"] * residual_block(frames * pixels, outputs, outputs)
        channels = outputs
        if level == len(level_channels) - 1:
            break
        if level < doublings_of_time:
            frames = 2 * frames - frames % 2  # an odd turn's first frame stays single
        pixels *= 4
        flops += _conv(frames * pixels, channels, channels, 9)
    flops += norm(frames * pixels, channels)
    flops += _conv(frames * pixels, channels, config["out_channels"], 27)
    return float(flops)


def _width(config: Config) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _patch(config: Config) -> int:
    return int(config["patch_size_t"] * config["patch_size"] ** 2)


def _video_tokens(config: Config, latent_shape: LatentShape) -> int:
    _, frames, _, height, width = latent_shape
    return prod((frames, height, width)) // _patch(config)


def _matmul(m: int, k: int, n: int) -> int:
    return 2 * m * k * n


def _conv(positions: int, in_channels: int, out_channels: int, kernel_size: int) -> int:
    return _matmul(positions, in_channels * kernel_size, out_channels)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
