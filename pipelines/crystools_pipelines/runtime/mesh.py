"""The devices as a mesh of three axes.

`data`      the guidance branches: each half of the devices runs one of the two.
`sequence`  the video's tokens.
`tensor`    the heads and the hidden width of the feed-forward.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA, SEQUENCE, TENSOR = "data", "sequence", "tensor"


def make_mesh(devices: Sequence[jax.Device], *, branches: int, widths: Sequence[int]) -> Mesh:
    """A mesh over all of `devices`.

    `branches` is the size of the batch that `data` splits, where it divides the number of devices; `tensor`
    is the largest size that divides what is left and every one of `widths`; `sequence` takes the rest.
    """
    data = math.gcd(len(devices), branches)
    tensor = math.gcd(len(devices) // data, *widths)
    sequence = len(devices) // data // tensor
    return Mesh(np.asarray(devices).reshape(data, sequence, tensor), (DATA, SEQUENCE, TENSOR))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
