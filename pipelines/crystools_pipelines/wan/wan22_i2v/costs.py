"""FLOPs and moved bytes of what Wan2.2 image-to-video computes beyond Wan2.1, by the architecture alone."""

from functools import partial
from itertools import pairwise

from crystools_pipelines.costs import Cost, convolution, residual_block
from crystools_pipelines.wan.costs import (
    Config,
    LatentShape,
    frame_by_frame,
    middle_block,
    norm,
)
from crystools_pipelines.wan.request import VAE_SPATIAL_RATIO, VAE_TEMPORAL_RATIO


def vae_encode(config: Config, latent_shape: LatentShape) -> list[Cost]:
    """AutoencoderKLWan.encode to each latent frame, by the encoder of Wan2.1 (`is_residual` is false)."""
    pixels = VAE_SPATIAL_RATIO**2 * latent_shape[3] * latent_shape[4]
    return frame_by_frame(partial(_encode_frame, config, pixels), latent_shape)


def _encode_frame(config: Config, pixels: int, past: int) -> Cost:
    """The video frames of one latent frame to it, after `past` frames; without a past there is but one."""
    frames = VAE_TEMPORAL_RATIO if past else 1
    level_channels = [config["base_dim"] * multiple for multiple in (1, *config["dim_mult"])]
    moments = 2 * config["z_dim"]

    read, written = (past + frames) * pixels, frames * pixels
    cost = convolution(read, written, config["in_channels"], level_channels[0], 27)
    halvings_of_time = [*config["temperal_downsample"], None]
    for (in_channels, channels), halves_time in zip(pairwise(level_channels), halvings_of_time, strict=True):
        read, written = (past + frames) * pixels, frames * pixels
        cost += residual_block(read, written, in_channels, channels, 27, norm)
        cost += (config["num_res_blocks"] - 1) * residual_block(read, written, channels, channels, 27, norm)
        if halves_time is None:
            break
        cost += convolution(written, written // 4, channels, channels, 9)
        pixels //= 4
        if halves_time and past:  # of which it needs the last frame alone
            cost += convolution((1 + frames) * pixels, frames // 2 * pixels, channels, channels, 3)
            frames //= 2
    cost += middle_block(pixels, past, level_channels[-1])
    cost += norm(level_channels[-1])
    cost += convolution((past + 1) * pixels, pixels, level_channels[-1], moments, 27)
    return cost + convolution(pixels, pixels, moments, moments, 1)  # quant_conv
