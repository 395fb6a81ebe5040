"""Model FLOPs and bytes of what Wan2.2 image-to-video computes beyond Wan2.1, from the architecture alone."""

from itertools import pairwise

from crystools_pipelines.costs import Cost, convolution, residual_block
from crystools_pipelines.wan.flops import (
    PAST_FRAMES,
    Config,
    LatentShape,
    frame_by_frame,
    middle_block,
    norm,
)
from crystools_pipelines.wan.request import VAE_SPATIAL_RATIO, VAE_TEMPORAL_RATIO


def vae_encode_flops(config: Config, latent_shape: LatentShape) -> float:
    """FLOPs of AutoencoderKLWan.encode for latents of this shape (`is_residual` false in its config)."""
    return float(_encode(config, latent_shape).flops)


def vae_encode_bytes(config: Config, latent_shape: LatentShape, bytes_per_parameter: int) -> float:
    """Bytes that the same must move, one latent frame after another: for each, the weights once."""
    return _encode(config, latent_shape).moved_bytes(bytes_per_parameter)


def _encode(config: Config, latent_shape: LatentShape) -> Cost:
    pixels = VAE_SPATIAL_RATIO**2 * latent_shape[3] * latent_shape[4]
    first, further = _encode_frame(config, pixels, past=0), _encode_frame(config, pixels, past=PAST_FRAMES)
    return frame_by_frame(first, further, latent_shape)


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
