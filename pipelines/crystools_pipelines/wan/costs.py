"""FLOPs and moved bytes of Wan2.1's components, by their architecture (see `crystools_pipelines.costs`).

A `config` is the mapping in the component's `config.json`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

from crystools_pipelines.costs import (
    Cost,
    attention,
    convolution,
    image_attention,
    linear,
    matmul,
    residual_block,
)
from crystools_pipelines.text import t5_costs

Config = Mapping[str, Any]
LatentShape = tuple[int, int, int, int, int]  # batch, channels, frames, height, width

PAST_FRAMES = 2  # that the VAE's convolutions need before those that they make


def transformer(config: Config, latent_shape: LatentShape, text_tokens: int) -> Cost:
    """One forward of WanTransformer3DModel; `text_tokens` a sample, padding included.

    In every layer it moves the hidden states, read and written by each of the three sublayers, and the keys
    and values of both attentions, written and read; then the latents in and out. Queries, scores and the
    inner feed-forward activations need never leave the chip. Without a layer, as in a step that skips them
    all, neither the text nor the modulations are needed.
    """
    batch, (tokens, width) = latent_shape[0], hidden_size(config, latent_shape)
    self_attention = 4 * matmul(tokens, width, width) + attention(tokens, tokens, width)
    cross_attention = (
        2 * matmul(tokens, width, width)
        + 2 * matmul(text_tokens, width, width)
        + attention(tokens, text_tokens, width)
    )
    feed_forward = 2 * matmul(tokens, width, config["ffn_dim"])
    patch = prod(config["patch_size"])
    embeddings = (
        matmul(tokens, config["in_channels"] * patch, width)
        + matmul(1, config["freq_dim"], width)
        + matmul(1, width, width)
    )
    if config["num_layers"]:
        embeddings += (
            matmul(text_tokens, config["text_dim"], width)
            + matmul(text_tokens, width, width)
            + matmul(1, width, 6 * width)
        )
    output = matmul(tokens, width, config["out_channels"] * patch)
    layer = self_attention + cross_attention + feed_forward
    moved = (3 * 2 * tokens + 2 * 2 * (tokens + text_tokens)) * width
    latents = tokens * (config["in_channels"] + config["out_channels"]) * patch
    return Cost(
        flops=batch * (config["num_layers"] * layer + embeddings + output),
        parameters=transformer_parameters(config),
        activations=batch * (config["num_layers"] * moved + latents),
    )


def transformer_parameters(config: Config) -> int:
    """The number of parameters of WanTransformer3DModel; without a layer, of those that are then needed."""
    width, inner, patch = _width(config), config["ffn_dim"], prod(config["patch_size"])
    projections = 4 * linear(width, width) + 2 * width  # the norms of queries and keys
    cross_attention_norm = 2 * width if config["cross_attn_norm"] else 0
    feed_forward = linear(width, inner) + linear(inner, width)
    layer = 2 * projections + cross_attention_norm + feed_forward + 6 * width
    embeddings = (
        linear(config["in_channels"] * patch, width)
        + linear(config["freq_dim"], width)
        + linear(width, width)
    )
    if config["num_layers"]:
        embeddings += linear(config["text_dim"], width) + linear(width, width) + linear(width, 6 * width)
    output = 2 * width + linear(width, config["out_channels"] * patch)
    return int(config["num_layers"] * layer + embeddings + output)


def text_encoder(config: Config, batch: int, tokens: int) -> Cost:
    """One forward of UMT5EncoderModel on `[batch, tokens]`; every layer has a table of relative positions."""
    return t5_costs.encoder(config, batch, tokens, position_tables=config["num_layers"])


def vae_decode(config: Config, latent_shape: LatentShape) -> list[Cost]:
    """AutoencoderKLWan.decode of each latent frame, by the decoder of Wan2.1 (`is_residual` is false)."""
    return frame_by_frame(partial(_decode_frame, config, prod(latent_shape[3:])), latent_shape)


def frame_by_frame(frame: Callable[[int], Cost], latent_shape: LatentShape) -> list[Cost]:
    """The cost of each latent frame, all samples together; `frame` is one sample's, after `past` frames."""
    first, further = (frame(past).batched(latent_shape[0]) for past in (0, PAST_FRAMES))
    return [first, *[further] * (latent_shape[2] - 1)]


def norm(channels: int) -> Cost:
    """The VAE's norm has a scale and no bias."""
    return Cost(parameters=channels)


def middle_block(pixels: int, past: int, channels: int) -> Cost:
    """The VAE's innermost block on one frame: two residual blocks around attention."""
    block = residual_block((past + 1) * pixels, pixels, channels, channels, 27, norm)
    return 2 * block + image_attention(1, pixels, channels, norm)


def _decode_frame(config: Config, pixels: int, past: int) -> Cost:
    """One latent frame to its video frames, after `past` frames; without a past it stays a single one."""
    latent_channels = config["z_dim"]
    base = config["decoder_base_dim"] or config["base_dim"]
    level_channels = [base * multiple for multiple in reversed(config["dim_mult"])]
    channels, frames = level_channels[0], 1

    cost = convolution(pixels, pixels, latent_channels, latent_channels, 1)  # post_quant_conv
    cost += convolution((past + 1) * pixels, pixels, latent_channels, channels, 27)
    cost += middle_block(pixels, past, channels)

    doublings_of_time = [*reversed(config["temperal_downsample"]), None]
    for level, (out_channels, doubles_time) in enumerate(zip(level_channels, doublings_of_time, strict=True)):
        in_channels = channels if level == 0 else channels // 2  # upsampling halves the channels
        channels = out_channels
        read, written = (past + frames) * pixels, frames * pixels
        cost += residual_block(read, written, in_channels, channels, 27, norm)
        cost += config["num_res_blocks"] * residual_block(read, written, channels, channels, 27, norm)
        if doubles_time is None:
            break
        if doubles_time and past:
            cost += convolution(read, written, channels, 2 * channels, 3)
            frames *= 2
        cost += convolution(frames * pixels, 4 * frames * pixels, channels, channels // 2, 9)
        pixels *= 4
    cost += norm(channels)
    return cost + convolution((past + frames) * pixels, frames * pixels, channels, config["out_channels"], 27)


def hidden_size(config: Config, latent_shape: Sequence[int]) -> tuple[int, int]:
    """How many tokens the transformer makes of latents, and their width."""
    sizes = zip(latent_shape[2:], config["patch_size"], strict=True)
    return prod(size // patch for size, patch in sizes), _width(config)


def _width(config: Config) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])
