"""FLOPs and moved bytes of CogVideoX's components, by their architecture (see `crystools_pipelines.costs`).

A `config` is the mapping in the component's `config.json`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

from crystools_pipelines.costs import Cost, attention, convolution, linear, matmul, residual_block
from crystools_pipelines.text import t5_costs

Config = Mapping[str, Any]
LatentShape = tuple[int, int, int, int, int]  # batch, frames, channels, height, width

PAST_FRAMES = 2  # that the VAE's convolutions need before those that they make


def transformer(config: Config, latent_shape: LatentShape, text_tokens: int) -> Cost:
    """One forward of CogVideoXTransformer3DModel; `text_tokens` a sample, padding included.

    In every layer it moves the hidden states, read and written by each of the two sublayers, and the keys and
    values, written and read; then the latents in and out. Queries, scores and the inner feed-forward
    activations need never leave the chip. Without a layer, as in a step that skips them all, the text is not
    needed.
    """
    batch, (video_tokens, width) = latent_shape[0], hidden_size(config, latent_shape)
    tokens, time_width, patch = text_tokens + video_tokens, config["time_embed_dim"], _patch(config)
    layer = (
        4 * matmul(tokens, width, width)
        + attention(tokens, tokens, width)
        + 2 * matmul(tokens, width, 4 * width)
        + 2 * matmul(1, time_width, 6 * width)
    )
    embeddings = (
        matmul(video_tokens, config["in_channels"] * patch, width)
        + matmul(1, width, time_width)
        + matmul(1, time_width, time_width)
    )
    if config["num_layers"]:
        embeddings += matmul(text_tokens, config["text_embed_dim"], width)
    output = matmul(1, time_width, 2 * width) + matmul(video_tokens, width, config["out_channels"] * patch)
    moved = (2 * 2 + 2 * 2) * tokens * width
    latents = video_tokens * (config["in_channels"] + config["out_channels"]) * patch
    return Cost(
        flops=batch * (config["num_layers"] * layer + embeddings + output),
        parameters=transformer_parameters(config),
        activations=batch * (config["num_layers"] * moved + latents),
    )


def transformer_parameters(config: Config) -> int:
    """The number of parameters of CogVideoXTransformer3DModel in version 1.5; without a layer, of those that
    are then needed.
    """
    width, time_width, patch = _width(config), config["time_embed_dim"], _patch(config)
    modulated_norm = linear(time_width, 6 * width) + 2 * width
    projections = 4 * linear(width, width) + 2 * 2 * config["attention_head_dim"]
    feed_forward = linear(width, 4 * width) + linear(4 * width, width)
    layer = 2 * modulated_norm + projections + feed_forward
    embeddings = (
        linear(config["in_channels"] * patch, width)
        + linear(width, time_width)
        + linear(time_width, time_width)
    )
    if config["num_layers"]:
        embeddings += linear(config["text_embed_dim"], width)
    norms = 2 * width + linear(time_width, 2 * width) + 2 * width
    output = linear(width, config["out_channels"] * patch)
    return int(config["num_layers"] * layer + embeddings + norms + output)


def text_encoder(config: Config, batch: int, tokens: int) -> Cost:
    """One forward of T5EncoderModel on `[batch, tokens]`; all layers share the first one's table."""
    return t5_costs.encoder(config, batch, tokens, position_tables=1)


def vae_turn(config: Config, frames: int, pixels: int, *, first: bool) -> Cost:
    """AutoencoderKLCogVideoX's decoder on the `frames` latent frames, of so many `pixels`, of one turn.

    Every turn but the `first` reads the past as well.
    """
    past = 0 if first else PAST_FRAMES
    latent_channels, latents = config["latent_channels"], frames * pixels
    level_channels = list(reversed(config["block_out_channels"]))
    doublings_of_time = config["temporal_compression_ratio"].bit_length() - 1
    channels = level_channels[0]

    cost = convolution((past + frames) * pixels, latents, latent_channels, channels, 27)
    norm = partial(_norm, latents, latent_channels, latents)
    cost += 2 * residual_block((past + frames) * pixels, latents, channels, channels, 27, norm)
    for level, outputs in enumerate(level_channels):
        read, written = (past + frames) * pixels, frames * pixels
        norm = partial(_norm, latents, latent_channels, written)
        cost += residual_block(read, written, channels, outputs, 27, norm)
        cost += config["layers_per_block"] * residual_block(read, written, outputs, outputs, 27, norm)
        channels = outputs
        if level == len(level_channels) - 1:
            break
        if level < doublings_of_time:
            frames = 2 * frames - frames % 2  # an odd turn's first frame stays single
        pixels *= 4
        cost += convolution(written, frames * pixels, channels, channels, 9)
    cost += norm(channels)
    return cost + convolution((past + frames) * pixels, frames * pixels, channels, config["out_channels"], 27)


def _norm(latents: int, latent_channels: int, positions: int, channels: int) -> Cost:
    """The VAE's norm at so many `positions`: its scale and bias are projections of the latents."""
    return Cost(
        flops=2 * matmul(positions, latent_channels, channels),
        parameters=2 * channels + 2 * linear(latent_channels, channels),
        activations=latents * latent_channels,
    )


def _width(config: Config) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _patch(config: Config) -> int:
    return int(config["patch_size_t"] * config["patch_size"] ** 2)


def hidden_size(config: Config, latent_shape: Sequence[int]) -> tuple[int, int]:
    """How many tokens of video the transformer makes of latents, and their width."""
    _, frames, _, height, width = latent_shape
    return prod((frames, height, width)) // _patch(config), _width(config)
