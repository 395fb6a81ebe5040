"""The devices as a mesh of three axes.

`data`      the guidance branches: each half of the devices runs one of the two.
`sequence`  the video's tokens.
`tensor`    the heads and the hidden width of the feed-forward.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crystools_pipelines.errors import RequestError
from crystools_pipelines.parallel.defaults import best_mesh
from crystools_pipelines.parallel.mesh_shape import MeshShape, legal_shapes
from crystools_tpu.telemetry.chips import chip_spec

DATA, SEQUENCE, TENSOR = "data", "sequence", "tensor"


def make_mesh(
    devices: Sequence[jax.Device],
    *,
    branches: int,
    widths: Sequence[int],
    model: str | None = None,
    shape: MeshShape | None = None,
) -> Mesh:
    """A mesh over all of `devices`, for so many guidance branches; `tensor` splits each of `widths`.

    Of this shape, or else of that which was found best for `model` on these chips, or else by the usual rule.
    Raises RequestError for a shape that is not one of `legal_shapes`.
    """
    legal = legal_shapes(len(devices), branches=branches, widths=widths)
    if shape is None:
        chip = chip_spec(devices[0].device_kind)
        best = best_mesh(model, chip.name, len(devices), branches) if model and chip else None
        # A checkpoint may have other widths than the one for which the best was found.
        shape = best if best is not None and best in legal else legal[-1]
    if shape not in legal:
        known = " or ".join(map(str, legal))
        raise RequestError(
            "mesh", f"{shape} cannot be had of {len(devices)} devices with this model; give {known}"
        )
    sizes = shape.data, shape.sequence, shape.tensor
    return Mesh(np.asarray(devices).reshape(sizes), (DATA, SEQUENCE, TENSOR))


def shape_of(mesh: Mesh) -> MeshShape:
    """How many devices each axis of the mesh has."""
    return MeshShape(mesh.shape[DATA], mesh.shape[SEQUENCE], mesh.shape[TENSOR])


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
