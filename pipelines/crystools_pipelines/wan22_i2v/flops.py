"""Model FLOPs of what Wan2.2 image-to-video computes beyond Wan2.1, from the architecture alone."""

from itertools import pairwise

from crystools_pipelines.wan21.flops import Config, LatentShape, conv, middle_block, residual_block
from crystools_pipelines.wan21.request import VAE_SPATIAL_RATIO, VAE_TEMPORAL_RATIO


def vae_encode_flops(config: Config, latent_shape: LatentShape) -> float:
    """FLOPs of AutoencoderKLWan.encode for latents of this shape (`is_residual` false in its config)."""
    batch, latent_channels, latent_frames, height, width = latent_shape
    frames = VAE_TEMPORAL_RATIO * (latent_frames - 1) + 1
    pixels = VAE_SPATIAL_RATIO**2 * height * width
    level_channels = [config["base_dim"] * multiple for multiple in (1, *config["dim_mult"])]
    moments = 2 * latent_channels

    flops = conv(frames * pixels, config["in_channels"], level_channels[0], 27)
    halvings_of_time = [*config["temperal_downsample"], None]
    for (in_channels, channels), halves_time in zip(pairwise(level_channels), halvings_of_time, strict=True):
        flops += residual_block(frames * pixels, in_channels, channels)
        flops += (config["num_res_blocks"] - 1) * residual_block(frames * pixels, channels, channels)
        if halves_time is None:
            break
        pixels //= 4
        flops += conv(frames * pixels, channels, channels, 9)
        if halves_time:  # the first frame stays single
            flops += conv((frames - 1) // 2 * pixels, channels, channels, 3)
            frames = (frames - 1) // 2 + 1
    flops += middle_block(frames, pixels, level_channels[-1])
    flops += conv(frames * pixels, level_channels[-1], moments, 27)
    flops += conv(frames * pixels, moments, moments, 1)  # quant_conv
    return float(batch * flops)
