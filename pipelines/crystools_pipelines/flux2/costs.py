"""FLOPs and moved bytes of FLUX.2's components, by their architecture (see `crystools_pipelines.costs`).

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


def transformer(config: Config, image_tokens: int, text_tokens: int) -> Cost:
    """One forward of Flux2Transformer2DModel on one image.

    In every layer it moves the hidden states, read and written by each of its sublayers (two in a double
    block, one in a single), and the keys and values, written and read; then the latents in and out. Queries,
    scores and the inner feed-forward activations need never leave the chip.
    """
    width, inner = _width(config), _inner(config)
    tokens = image_tokens + text_tokens
    attends = 4 * matmul(tokens, width, width) + attention(tokens, tokens, width)
    feed_forward = matmul(tokens, width, 2 * inner) + matmul(tokens, inner, width)
    double, single = config["num_layers"], config["num_single_layers"]
    vectors = _parameters_of_vectors(config)  # each weight multiplies one vector
    projections = (
        matmul(image_tokens, config["in_channels"], width)
        + matmul(text_tokens, config["joint_attention_dim"], width)
        + matmul(image_tokens, width, _out_channels(config))
    )
    moved = 2 * (2 * double + single) + 2 * 2 * (double + single)
    latents = image_tokens * (config["in_channels"] + _out_channels(config))
    return Cost(
        flops=(double + single) * (attends + feed_forward) + projections + 2 * vectors,
        parameters=transformer_parameters(config),
        activations=moved * tokens * width + latents,
    )


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


def text_encoder(config: Config, tokens: int, taken_layers: Sequence[int]) -> Cost:
    """Mistral on one prompt of `tokens`, padding included, up to the last of `taken_layers`.

    The embeddings are the hidden states after these. Of the vocabulary it moves only the tokens' own rows;
    then the weights, the hidden states of two sublayers a layer with their keys and values, and the
    embeddings out.
    """
    model, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    attends = 2 * matmul(tokens, model, queries + keys) + attention(tokens, tokens, queries)
    layer = Cost(
        flops=attends + 3 * matmul(tokens, model, inner),
        parameters=2 * model * (queries + keys) + 3 * model * inner + 2 * model,
        activations=tokens * (2 * 2 * model + 2 * 2 * keys),
    )
    return max(taken_layers) * layer + Cost(activations=(1 + len(taken_layers)) * tokens * model)


def vae_decode(config: Config, pixels: int) -> Cost:
    """AutoencoderKLFlux2.decode on latents of so many `pixels`."""
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


def _parameters_of_vectors(config: Config) -> int:
    """Parameters of the modulations and of the embedders of timestep and guidance, which see one vector."""
    width = _width(config)
    embedders = 2 if config["guidance_embeds"] else 1
    embedding = embedders * (config["timestep_guidance_channels"] * width + width * width)
    modulations = (6 + 6 + 3 + 2) * width * width  # image, text, single, output
    return int(embedding + modulations)


def hidden_size(config: Config, latent_shape: Sequence[int]) -> tuple[int, int]:
    """How many tokens of the image the transformer has, and their width."""
    return latent_shape[1], _width(config)


def _width(config: Config) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _inner(config: Config) -> int:
    return int(_width(config) * config["mlp_ratio"])


def _out_channels(config: Config) -> int:
    return int(config["out_channels"] or config["in_channels"])
