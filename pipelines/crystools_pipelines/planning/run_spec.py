"""What is asked of a compiler for TPUs that are not here. Imports no jax."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystools_pipelines.parallel.mesh_shape import MeshShape


@dataclass(frozen=True)
class RunSpec:
    """A run that is asked for: of `model`, an id of MODELS, on a key of TOPOLOGIES.

    `configurations` is a checkpoint's folder; weights need not be in it. `mesh` is None for the default.
    """

    topology: str
    model: str
    request: Any
    configurations: Path
    mesh: MeshShape | None = None
