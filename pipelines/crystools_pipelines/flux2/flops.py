"""Model FLOPs and bytes of FLUX.2, from the architecture alone.

A product of [m, k] and [k, n] is 2*m*k*n FLOPs, a convolution likewise; attention is its two products, causal
or not. Element-wise work is left out, as in torch.utils.flop_counter. A `config` is the mapping in the
component's `config.json`, for the text encoder its `text_config`.
"""

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]


def transformer_forward_flops(config: Config, image_tokens: int, text_tokens: int) -> float:
    """FLOPs of one forward of Flux2Transformer2DModel on one image."""
    width, inner = _width(config), _inner(config)
    tokens = image_tokens + text_tokens
    attention = 4 * _matmul(tokens, width, width) + _attention(tokens, tokens, width)
    feed_forward = _matmul(tokens, width, 2 * inner) + _matmul(tokens, inner, width)
    layers = config["num_layers"] + config["num_single_layers"]
    vectors = _parameters_of_vectors(config)  # each weight multiplies one vector
    projections = (
        _matmul(image_tokens, config["in_channels"], width)
        + _matmul(text_tokens, config["joint_attention_dim"], width)
        + _matmul(image_tokens, width, _out_channels(config))
    )
    return float(layers * (attention + feed_forward) + projections + 2 * vectors)


def transformer_forward_bytes(
    config: Config, image_tokens: int, text_tokens: int, bytes_per_parameter: int
) -> float:
    """Bytes that one forward must move to or from HBM, however well each sublayer is fused.

    All weights once; in every layer the hidden states, read and written by each of its sublayers (two in a
    double block, one in a single), and the keys and values, written and read; the latents in and out.
    Queries, scores and the inner feed-forward activations need never leave the chip. Activations count
    `bytes_per_parameter` too.
    """
    double, single = config["num_layers"], config["num_single_layers"]
    hidden_states = 2 * (2 * double + single)
    keys_and_values = 2 * 2 * (double + single)
    activations = (hidden_states + keys_and_values) * (image_tokens + text_tokens) * _width(config)
    latents = image_tokens * (config["in_channels"] + _out_channels(config))
    return float((transformer_parameters(config) + activations + latents) * bytes_per_parameter)


def transformer_parameters(config: Config) -> int:
    """The number of parameters of Flux2Transformer2DModel."""
    width, inner, head = _width(config), _inner(config), config["attention_head_dim"]
    layer = 4 * width * width + 3 * width * inner
    double = 2 * layer + 4 * head  # text and image; the norms of queries and keys
    single = layer + 2 * head
    projections = width * (config["in_channels"] + config["joint_attention_dim"] + _out_channels(config))
    return int(
        config["num_layers"] * double
        + config["num_single_layers"] * single
        + projections
        + _parameters_of_vectors(config)
    )


def text_encoder_flops(config: Config, tokens: int, layers: int) -> float:
    """FLOPs of the first `layers` layers of Mistral on one prompt of `tokens`, padding included."""
    model, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    attention = 2 * _matmul(tokens, model, queries + keys) + _attention(tokens, tokens, queries)
    feed_forward = 3 * _matmul(tokens, model, config["intermediate_size"])
    return float(layers * (attention + feed_forward))


def vae_decode_flops(config: Config, rows: int, columns: int) -> float:
    """FLOPs of AutoencoderKLFlux2.decode on latents of `rows` and `columns`."""
    latent_channels, pixels = config["latent_channels"], rows * columns
    levels = list(reversed(config.get("decoder_block_out_channels") or config["block_out_channels"]))
    channels = levels[0]
    flops = _conv(pixels, latent_channels, channels, 9) + 2 * _residual_block(pixels, channels, channels)
    if config["use_post_quant_conv"]:
        flops += _conv(pixels, latent_channels, latent_channels, 1)
    if config["mid_block_add_attention"]:
        flops += 4 * _matmul(pixels, channels, channels) + _attention(pixels, pixels, channels)
    for level, out_channels in enumerate(levels):
        flops += _residual_block(pixels, channels, out_channels)
        flops += config["layers_per_block"] * _residual_block(pixels, out_channels, out_channels)
        channels = out_channels
        if level < len(levels) - 1:
            pixels *= 4
            flops += _conv(pixels, channels, channels, 9)
    return float(flops + _conv(pixels, channels, config["out_channels"], 9))


def _parameters_of_vectors(config: Config) -> int:
    """Of the embedding of timestep and guidance, and of the modulations: each sees one vector a forward."""
    width = _width(config)
    embedders = 2 if config["guidance_embeds"] else 1
    embedding = embedders * (config["timestep_guidance_channels"] * width + width * width)
    modulations = (6 + 6 + 3 + 2) * width * width  # image, text, single, output
    return int(embedding + modulations)


def _width(config: Config) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _inner(config: Config) -> int:
    return int(_width(config) * config["mlp_ratio"])


def _out_channels(config: Config) -> int:
    return int(config["out_channels"] or config["in_channels"])


def _matmul(m: int, k: int, n: int) -> int:
    return 2 * m * k * n


def _attention(queries: int, keys: int, width: int) -> int:
    """Scores, then their product with the values; `width` is heads times head dimension."""
    return 2 * _matmul(queries, width, keys)


def _conv(positions: int, in_channels: int, out_channels: int, kernel_size: int) -> int:
    return _matmul(positions, in_channels * kernel_size, out_channels)


def _residual_block(positions: int, in_channels: int, out_channels: int) -> int:
    shortcut = _conv(positions, in_channels, out_channels, 1) if in_channels != out_channels else 0
    return (
        _conv(positions, in_channels, out_channels, 9)
        + _conv(positions, out_channels, out_channels, 9)
        + shortcut
    )
