"""What is planned, and what a plan says of a run and of each of its stages. Imports no jax."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_tpu.telemetry import Shape


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


@dataclass(frozen=True)
class StagePlan:
    """A stage of a run that was compiled and not run. What is not known is None.

    Bytes are of one chip: `peak_hbm_bytes_per_chip` is what must be there together while the stage runs (its
    component's weights, its arrays, its largest program), `hbm_bytes_per_chip` what programs may have.
    FLOPs are the model's, of all steps on all chips together; seconds are of all steps. `roofline_seconds`
    cannot be beaten; `estimated_seconds` and `estimated_mfu` are by the compiler's own schedule, and
    `estimate` says on what they are spent. `collective_bytes` is what each chip sends, by kind, in all steps.
    `evicts` are the components that leave the HBM for this stage.
    """

    name: str
    component: str | None
    steps: int
    peak_hbm_bytes_per_chip: int | None
    hbm_bytes_per_chip: int
    fits: bool
    flops: float
    moved_bytes: float
    roofline_seconds: float
    estimated_seconds: float | None
    estimated_mfu: float | None
    compile_seconds: float
    collective_bytes: dict[str, int] | None
    evicts: tuple[str, ...]
    estimate: dict[str, float] | None
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """`denoise transformer`, or just the stage's name."""
        return f"{self.name} {self.component}" if self.component else self.name


@dataclass(frozen=True)
class Plan:
    """A run as the compiler sees it. `fits` is of all stages, with what leaves the HBM between them.

    Where it does not, `largest_that_fits` has the most frames and the largest size that do, each with the
    other as asked, each compiled; it is empty where no shape would fit, None where nobody looked for one.
    `shape` is what was planned, None in a plan that does not say.
    """

    model: str
    topology: str
    mesh: MeshShape
    fits: bool
    stages: tuple[StagePlan, ...]
    largest_that_fits: tuple[Shape, ...] | None = ()
    shape: Shape | None = None

    @property
    def estimated_seconds(self) -> float | None:
        """Estimated seconds of all stages together; None where one of them has no estimate."""
        known = [stage.estimated_seconds for stage in self.stages if stage.estimated_seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def to_json(self) -> dict[str, Any]:
        """The plan as `plan --json` prints it, with `largest_that_fits` only where the run does not fit."""
        plain = asdict(self)
        if self.fits:
            del plain["largest_that_fits"]
        return plain


def from_json(plain: dict[str, Any]) -> Plan:
    """The plan that `to_json` made this of. Raises TypeError or KeyError for what is none."""
    stages = tuple(
        StagePlan(**{**stage, "evicts": tuple(stage["evicts"]), "notes": tuple(stage["notes"])})
        for stage in plain["stages"]
    )
    largest = plain.get("largest_that_fits", ())
    shapes = None if largest is None else tuple(Shape(**shape) for shape in largest)
    made = {"mesh": MeshShape(**plain["mesh"]), "stages": stages, "largest_that_fits": shapes}
    shape = plain.get("shape")
    return Plan(**{**plain, **made, "shape": None if shape is None else Shape(**shape)})


@dataclass(frozen=True)
class MeshComparison:
    """Plans of the same stages, one for each mesh, the fastest first; `default` is the mesh of a usual run.

    Those that do not fit come last, and have no estimate.
    """

    default: MeshShape
    plans: tuple[Plan, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison as `plan --compare-meshes --json` prints it."""
        first = self.plans[0]
        meshes = [
            {
                "mesh": asdict(plan.mesh),
                "is_default": plan.mesh == self.default,
                "fits": plan.fits,
                "estimated_seconds": plan.estimated_seconds,
                "stages": [asdict(stage) for stage in plan.stages],
            }
            for plan in self.plans
        ]
        return {"model": first.model, "topology": first.topology, "meshes": meshes}


def compare(default: MeshShape, plans: Iterable[Plan]) -> MeshComparison:
    """Ranks plans that have at least one mesh among them."""

    def rank(plan: Plan) -> tuple[bool, float]:
        seconds = plan.estimated_seconds
        return not plan.fits, inf if seconds is None else seconds

    return MeshComparison(default, tuple(sorted(plans, key=rank)))
