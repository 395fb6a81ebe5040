"""What layers compute and move, from their shapes alone.

A product of [m, k] and [k, n] is 2*m*k*n FLOPs, a convolution likewise; attention is its two products.
Element-wise work is left out, as in torch.utils.flop_counter.

What must move to or from HBM, however well each sublayer is fused, is all weights once and the activations
between sublayers. A convolution is one: it reads its input, with those frames of the past that it needs, and
writes its output; norms, activations, upsampling and sums are fused into it. So is attention: it reads and
writes the hidden states, and writes and reads keys and values, but neither queries nor scores. Activations
count as many bytes an element as parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """FLOPs, how many parameters take part, and how many elements of activations are read and written."""

    flops: int = 0
    parameters: int = 0
    activations: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops, self.parameters + other.parameters, self.activations + other.activations
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(times * self.flops, times * self.parameters, times * self.activations)

    __rmul__ = __mul__

    def batched(self, samples: int) -> "Cost":
        """The cost of so many samples at once, which share the weights."""
        return Cost(samples * self.flops, self.parameters, samples * self.activations)

    def moved_bytes(self, bytes_per_parameter: int) -> float:
        """Bytes that must move."""
        return float((self.parameters + self.activations) * bytes_per_parameter)


def matmul(m: int, k: int, n: int) -> int:
    """FLOPs of a product of [m, k] and [k, n]."""
    return 2 * m * k * n


def attention(queries: int, keys: int, width: int) -> int:
    """FLOPs of scores, then of their product with the values; `width` is heads times head dimension."""
    return 2 * matmul(queries, width, keys)


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a projection with its bias."""
    return inputs * outputs + outputs


def convolution(read: int, written: int, in_channels: int, out_channels: int, taps: int) -> Cost:
    """A convolution of `taps` that makes `written` positions of `read` ones."""
    return Cost(
        flops=matmul(written, in_channels * taps, out_channels),
        parameters=linear(in_channels * taps, out_channels),
        activations=read * in_channels + written * out_channels,
    )


def residual_block(
    read: int, written: int, in_channels: int, out_channels: int, taps: int, norm: Callable[[int], Cost]
) -> Cost:
    """Two convolutions, each after a `norm` of so many channels, and the sum with the block's input.

    `read` exceeds `written` by the positions of the past. The sum reads the input a second time, through a
    projection where the channels differ.
    """
    shortcut = Cost(activations=written * in_channels)
    if in_channels != out_channels:
        shortcut += Cost(matmul(written, in_channels, out_channels), linear(in_channels, out_channels))
    return (
        norm(in_channels)
        + convolution(read, written, in_channels, out_channels, taps)
        + norm(out_channels)
        + convolution(read, written, out_channels, out_channels, taps)
        + shortcut
    )


def image_attention(frames: int, pixels: int, channels: int, norm: Callable[[int], Cost]) -> Cost:
    """Attention of one head among the pixels of each frame, after a `norm`, with its four projections."""
    positions = frames * pixels
    return norm(channels) + Cost(
        flops=4 * matmul(positions, channels, channels) + frames * attention(pixels, pixels, channels),
        parameters=4 * linear(channels, channels),
        activations=(2 + 2 * 2) * positions * channels,
    )
