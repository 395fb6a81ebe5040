"""Model FLOPs and bytes of FLUX.2, from the architecture alone, counted as `costs.py` says.

A `config` is the mapping in the component's `config.json`, for the text encoder its `text_config`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from crystools_pipelines.costs import (
    Cost,
    attention,
    convolution,
    image_attention,
    matmul,
    residual_block,
)

Config = Mapping[str, Any]


def transformer_forward_flops(config: Config, image_tokens: int, text_tokens: int) -> float:
    """FLOPs of one forward of Flux2Transformer2DModel on one image."""
    width, inner = _width(config), _inner(config)
    tokens = image_tokens + text_tokens
    attends = 4 * matmul(tokens, width, width) + attention(tokens, tokens, width)
    feed_forward = matmul(tokens, width, 2 * inner) + matmul(tokens, inner, width)
    layers = config["num_layers"] + config["num_single_layers"]
    vectors = _parameters_of_vectors(config)  # each weight multiplies one vector
    projections = (
        matmul(image_tokens, config["in_channels"], width)
        + matmul(text_tokens, config["joint_attention_dim"], width)
        + matmul(image_tokens, width, _out_channels(config))
    )
    return float(layers * (attends + feed_forward) + projections + 2 * vectors)


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
    model, queries, keys = config["hidden_size"], *_text_widths(config)
    attends = 2 * matmul(tokens, model, queries + keys) + attention(tokens, tokens, queries)
    feed_forward = 3 * matmul(tokens, model, config["intermediate_size"])
    return float(layers * (attends + feed_forward))


def text_encoder_bytes(
    config: Config, tokens: int, taken_layers: Sequence[int], bytes_per_parameter: int
) -> float:
    """Bytes that the same must move, where the embeddings are the hidden states after `taken_layers`.

    Of the vocabulary only the tokens' own rows; then the weights of the layers up to the last that is taken,
    the hidden states of two sublayers a layer with their keys and values, and the embeddings out.
    """
    model, queries, keys = config["hidden_size"], *_text_widths(config)
    weights = 2 * model * (queries + keys) + 3 * model * config["intermediate_size"] + 2 * model
    activations = tokens * (2 * 2 * model + 2 * 2 * keys)
    ends = (1 + len(taken_layers)) * tokens * model
    return float((max(taken_layers) * (weights + activations) + ends) * bytes_per_parameter)


def vae_decode_flops(config: Config, rows: int, columns: int) -> float:
    """FLOPs of AutoencoderKLFlux2.decode on latents of `rows` and `columns`."""
    return float(_decode(config, rows * columns).flops)


def vae_decode_bytes(config: Config, rows: int, columns: int, bytes_per_parameter: int) -> float:
    """Bytes that the same must move."""
    return _decode(config, rows * columns).moved_bytes(bytes_per_parameter)


def _decode(config: Config, pixels: int) -> Cost:
    latent_channels = config["latent_channels"]
    levels = list(reversed(config.get("decoder_block_out_channels") or config["block_out_channels"]))
    channels = levels[0]

    def block(in_channels: int, out_channels: int) -> Cost:
        return residual_block(pixels, pixels, in_channels, out_channels, 9, _norm)

    cost = Cost(parameters=2 * 4 * latent_channels)  # mean and variance of a token's channels
    if config["use_post_quant_conv"]:
        cost += convolution(pixels, pixels, latent_channels, latent_channels, 1)
    cost += convolution(pixels, pixels, latent_channels, channels, 9) + 2 * block(channels, channels)
    if config["mid_block_add_attention"]:
        cost += image_attention(1, pixels, channels, _norm)
    for level, out_channels in enumerate(levels):
        cost += block(channels, out_channels) + config["layers_per_block"] * block(out_channels, out_channels)
        channels = out_channels
        if level < len(levels) - 1:
            cost += convolution(pixels, 4 * pixels, channels, channels, 9)
            pixels *= 4
    return cost + _norm(channels) + convolution(pixels, pixels, channels, config["out_channels"], 9)


def _norm(channels: int) -> Cost:
    return Cost(parameters=2 * channels)


def _text_widths(config: Config) -> tuple[int, int]:
    """Of all queries, and of all keys."""
    head = config["head_dim"]
    return config["num_attention_heads"] * head, config["num_key_value_heads"] * head


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
