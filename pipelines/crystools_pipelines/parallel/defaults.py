"""The choices that were found best by `plan`, kept as data with how each was found: `defaults.json`.

`meshes` has for a model, a chip, a number of devices and of guidance branches the `mesh` with the least of
the `estimated_seconds` that the `command` said, which are null for one that does not fit. `benchmarks.meshes`
writes it.

`attention_blocks` has for a chip and a width of heads the `blocks` of the attention kernel with the least
`estimated_seconds` of those that the `command` tried, named `queries x keys x keys at a time`.
`benchmarks.attention_blocks` writes it.
"""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh_shape import MeshShape, parse_mesh

DEFAULTS = Path(__file__).with_name("defaults.json")


@cache
def read_defaults() -> dict[str, list[dict[str, Any]]]:
    """The whole file."""
    defaults: dict[str, list[dict[str, Any]]] = json.loads(DEFAULTS.read_text())
    return defaults


def best_mesh(model: str, chip: str, devices: int, branches: int) -> MeshShape | None:
    """The best one for an id of MODELS on so many devices of a chip of CHIPS; None where it is not known.

    What was found for another model counts where its published transformer is the same. Where no such number
    was compared, the next one's, with more or fewer devices on `sequence`: so each holds as much of the
    weights.
    """
    transformer = _published_transformer(model)
    asked = {"chip": chip, "branches": branches}
    found = [
        parse_mesh(entry["mesh"])
        for entry in read_defaults()["meshes"]
        if asked.items() <= entry.items() and _published_transformer(entry["model"]) == transformer
    ]
    if not found:
        return None
    near = min(found, key=lambda mesh: abs(math.log2(mesh.devices / devices)))
    sequence, left = divmod(devices, near.data * near.tensor)
    return None if left else MeshShape(near.data, sequence, near.tensor)


def _published_transformer(model: str) -> dict[str, Any]:
    return MODELS[model].published()["transformer"]


def best_blocks(chip: str, head_dim: int) -> dict[str, int] | None:
    """The fields of the best `BlockSizes` for heads of this width on a chip of CHIPS; None if not known."""
    asked = {"chip": chip, "head_dim": head_dim}
    found = (entry for entry in read_defaults()["attention_blocks"] if asked.items() <= entry.items())
    return next((entry["blocks"] for entry in found), None)
