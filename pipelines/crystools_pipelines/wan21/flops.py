"""Model FLOPs and bytes of Wan2.1, from the architecture alone.

A product of [m, k] and [k, n] is 2*m*k*n FLOPs, a convolution likewise; attention is its two products.
Element-wise work is left out, as in torch.utils.flop_counter. A `config` is the mapping in the component's
`config.json`.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

Config = Mapping[str, Any]
LatentShape = tuple[int, int, int, int, int]  # batch, channels, frames, height, width


def transformer_forward_flops(config: Config, latent_shape: LatentShape, text_tokens: int) -> float:
    """FLOPs of one forward of WanTransformer3DModel; `text_tokens` a sample, padding included."""
    batch, tokens, width = latent_shape[0], _tokens(config, latent_shape), _width(config)
    self_attention = 4 * _matmul(tokens, width, width) + _attention(tokens, tokens, width)
    cross_attention = (
        2 * _matmul(tokens, width, width)
        + 2 * _matmul(text_tokens, width, width)
        + _attention(tokens, text_tokens, width)
    )
    feed_forward = 2 * _matmul(tokens, width, config["ffn_dim"])
    patch = prod(config["patch_size"])
    embeddings = (
        _matmul(tokens, config["in_channels"] * patch, width)
        + _matmul(text_tokens, config["text_dim"], width)
        + _matmul(text_tokens, width, width)
        + _matmul(1, config["freq_dim"], width)
        + _matmul(1, width, 7 * width)  # the time embedder's second layer, then six modulations
    )
    output = _matmul(tokens, width, config["out_channels"] * patch)
    layer = self_attention + cross_attention + feed_forward
    return float(batch * (config["num_layers"] * layer + embeddings + output))


def transformer_forward_bytes(
    config: Config, latent_shape: LatentShape, text_tokens: int, bytes_per_parameter: int
) -> float:
    """Bytes that one forward must move to or from HBM, however well each sublayer is fused.

    All weights once; in every layer the hidden states, read and written by each of the three sublayers, and
    the keys and values of both attentions, written and read; the latents in and out. Queries, scores and the
    inner feed-forward activations need never leave the chip. Activations count `bytes_per_parameter` too.
    """
    batch, tokens = latent_shape[0], _tokens(config, latent_shape)
    hidden_states = 3 * 2 * tokens
    keys_and_values = 2 * 2 * (tokens + text_tokens)
    layer = batch * (hidden_states + keys_and_values) * _width(config)
    latents = batch * tokens * (config["in_channels"] + config["out_channels"]) * prod(config["patch_size"])
    elements = transformer_parameters(config) + config["num_layers"] * layer + latents
    return float(elements * bytes_per_parameter)


def transformer_parameters(config: Config) -> int:
    """The number of parameters of WanTransformer3DModel."""
    width, inner, patch = _width(config), config["ffn_dim"], prod(config["patch_size"])
    attention = 4 * _linear(width, width) + 2 * width  # the norms of queries and keys
    cross_attention_norm = 2 * width if config["cross_attn_norm"] else 0
    feed_forward = _linear(width, inner) + _linear(inner, width)
    layer = 2 * attention + cross_attention_norm + feed_forward + 6 * width
    embeddings = (
        _linear(config["in_channels"] * patch, width)
        + _linear(config["freq_dim"], width)
        + _linear(config["text_dim"], width)
        + 2 * _linear(width, width)
        + _linear(width, 6 * width)
    )
    output = 2 * width + _linear(width, config["out_channels"] * patch)
    return int(config["num_layers"] * layer + embeddings + output)


def text_encoder_flops(config: Config, batch: int, tokens: int) -> float:
    """FLOPs of UMT5EncoderModel on `[batch, tokens]`, padding included."""
    model, heads = config["d_model"], config["num_heads"] * config["d_kv"]
    attention = 4 * _matmul(tokens, model, heads) + _attention(tokens, tokens, heads)
    feed_forward_products = 3 if config["feed_forward_proj"].startswith("gated") else 2
    feed_forward = feed_forward_products * _matmul(tokens, model, config["d_ff"])
    return float(batch * config["num_layers"] * (attention + feed_forward))


def vae_decode_flops(config: Config, latent_shape: LatentShape) -> float:
    """FLOPs of AutoencoderKLWan.decode, for the decoder of Wan2.1 (`is_residual` false in its config)."""
    batch, _, frames, height, width = latent_shape
    latent_channels = config["z_dim"]
    base = config["decoder_base_dim"] or config["base_dim"]
    level_channels = [base * multiple for multiple in reversed(config["dim_mult"])]
    channels = level_channels[0]

    pixels = height * width
    flops = conv(frames * pixels, latent_channels, latent_channels, 1)  # post_quant_conv
    flops += conv(frames * pixels, latent_channels, channels, 27)
    flops += middle_block(frames, pixels, channels)

    doublings_of_time = [*reversed(config["temperal_downsample"]), None]
    for level, (out_channels, doubles_time) in enumerate(zip(level_channels, doublings_of_time, strict=True)):
        in_channels = channels if level == 0 else channels // 2  # upsampling halves the channels
        channels = out_channels
        flops += residual_block(frames * pixels, in_channels, channels)
        flops += config["num_res_blocks"] * residual_block(frames * pixels, channels, channels)
        if doubles_time is None:
            break
        if doubles_time:  # the first frame stays single
            flops += conv((frames - 1) * pixels, channels, 2 * channels, 3)
            frames = 2 * frames - 1
        pixels *= 4
        flops += conv(frames * pixels, channels, channels // 2, 9)
    flops += conv(frames * pixels, channels, config["out_channels"], 27)
    return float(batch * flops)


def _width(config: Config) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _tokens(config: Config, latent_shape: LatentShape) -> int:
    return prod(size // patch for size, patch in zip(latent_shape[2:], config["patch_size"], strict=True))


def _matmul(m: int, k: int, n: int) -> int:
    return 2 * m * k * n


def _attention(queries: int, keys: int, width: int) -> int:
    """Scores, then their product with the values; `width` is heads times head dimension."""
    return 2 * _matmul(queries, width, keys)


def conv(positions: int, in_channels: int, out_channels: int, kernel_size: int) -> int:
    """FLOPs of a convolution with `kernel_size` taps at `positions` of its output."""
    return _matmul(positions, in_channels * kernel_size, out_channels)


def middle_block(frames: int, pixels: int, channels: int) -> int:
    """FLOPs of the VAE's innermost block: two residual blocks around attention within each frame."""
    projections = conv(frames * pixels, channels, 4 * channels, 1)
    attention = frames * _attention(pixels, pixels, channels)
    return 2 * residual_block(frames * pixels, channels, channels) + projections + attention


def residual_block(positions: int, in_channels: int, out_channels: int) -> int:
    """FLOPs of one of the VAE's residual blocks."""
    shortcut = conv(positions, in_channels, out_channels, 1) if in_channels != out_channels else 0
    return (
        conv(positions, in_channels, out_channels, 27)
        + conv(positions, out_channels, out_channels, 27)
        + shortcut
    )


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
