"""The same run planned for several meshes."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.plan import Plan


@dataclass(frozen=True)
class MeshComparison:
    """Plans of the same stages, one for each mesh, the fastest first; `default` is the mesh of a usual run.

    Those that do not fit come last, and have no estimate.
    """

    default: MeshShape
    plans: tuple[Plan, ...]

    def to_json(self) -> dict[str, Any]:
        """As `plan --compare-meshes --json` prints it."""
        first = self.plans[0]
        meshes = [
            {
                "mesh": plain["mesh"],
                "is_default": plan.mesh == self.default,
                "fits": plan.fits,
                "estimated_seconds": plan.estimated_seconds,
                "stages": plain["stages"],
            }
            for plan in self.plans
            for plain in (plan.to_json(),)
        ]
        return {"model": first.model, "topology": first.topology, "meshes": meshes}


def compare(default: MeshShape, plans: Iterable[Plan]) -> MeshComparison:
    """Ranks plans that have at least one mesh among them."""
    return MeshComparison(default, tuple(sorted(plans, key=_rank)))


def _rank(plan: Plan) -> tuple[bool, float]:
    seconds = plan.estimated_seconds
    return not plan.fits, inf if seconds is None else seconds
