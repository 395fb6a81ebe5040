"""Random convolutions that blur, so that what a tiny VAE decodes is smooth."""

import torch
from torch.nn.init import orthogonal_, zeros_


def blur(convolution: torch.nn.Conv2d | torch.nn.Conv3d, repeat_channels: bool = False) -> None:
    """Set the weights to a blur in space, and over the past in time, that mixes channels at random.

    `repeat_channels` instead gives each block of outputs the inputs in their order.
    """
    out_channels, in_channels, *sizes = convolution.weight.shape
    taps = torch.ones(())
    for axis, size in enumerate(sizes):
        causal = axis == len(sizes) - 3
        taper = torch.tensor([0.0, 0.25, 0.75] if causal else [0.25, 0.5, 0.25])
        taps = taps.unsqueeze(-1) * (taper if size == 3 else torch.ones(1))
    if repeat_channels:
        mixing = torch.eye(in_channels).repeat(out_channels // in_channels, 1)
    else:
        mixing = orthogonal_(torch.empty(out_channels, in_channels))
        mixing -= mixing.mean(dim=1, keepdim=True)
    convolution.weight.copy_(torch.tensordot(mixing, taps, dims=0))
    zeros_(convolution.get_parameter("bias"))
