"""What is planned, and what a plan says of a run and of each of its stages. Imports no jax."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_tpu.telemetry import Shape
from crystools_tpu.telemetry.events import CACHED, FULL


@dataclass(frozen=True)
class RunSpec:
    """A run that is asked for: of `model`, an id of MODELS, on a key of TOPOLOGIES.

    `configurations` is a checkpoint's folder; weights need not be in it. `mesh` is None for the default.
    `checkpoint` is what the run itself calls the checkpoint, by which what was measured of it is found.
    """

    topology: str
    model: str
    request: Any
    configurations: Path
    mesh: MeshShape | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class PlannedSteps:
    """Steps of one kind, and how many of them are known beforehand; all else is of one of them.

    Where those of a kind differ, it is their mean. What is not known is None.
    """

    kind: str
    count: int
    flops: float
    moved_bytes: float
    estimated_seconds: float | None
    collective_bytes: dict[str, float] | None
    estimate: dict[str, float] | None


@dataclass(frozen=True)
class StagePlan:
    """A stage of a run that was compiled and not run. What is not known is None.

    Bytes are of one chip: `peak_hbm_bytes_per_chip` is what must be there together while the stage runs (its
    component's weights, its arrays, its largest program), `hbm_bytes_per_chip` what programs may have.
    FLOPs are the model's, of all steps on all chips together; seconds are of all steps. `roofline_seconds`
    cannot be beaten; `estimated_seconds` and `estimated_mfu` are by the compiler's own schedule, and
    `estimate` says on what they are spent. `collective_bytes` is what each chip sends, by kind, in all steps.
    `evicts` are the components that leave the HBM for this stage. `steps_by_kind` has the steps apart; it is
    empty in a plan that does not say.

    Of `undecided_steps` the device decides while it runs whether they are full or cached. Where there are
    any, FLOPs and bytes are of a stage that skips none, `roofline_seconds` is of one that skips all of them,
    and what would be invented is None: `seconds_range` says between what the stage is, and
    `step_kinds.with_skips` what it is for a share of skips.
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
    steps_by_kind: tuple[PlannedSteps, ...] = ()
    undecided_steps: int = 0

    @property
    def label(self) -> str:
        """`denoise transformer`, or just the stage's name."""
        return f"{self.name} {self.component}" if self.component else self.name

    @property
    def seconds_by_kind(self) -> dict[str, float]:
        """Estimated seconds of a step of each kind of which there is an estimate."""
        known = {steps.kind: steps.estimated_seconds for steps in self.steps_by_kind}
        if not self.steps_by_kind and self.estimated_seconds is not None:
            known = {FULL: self.estimated_seconds / self.steps}
        return {kind: seconds for kind, seconds in known.items() if seconds is not None}

    @property
    def step_seconds(self) -> float | None:
        """Estimated seconds of a step that is not skipped."""
        return self.seconds_by_kind.get(FULL)

    @property
    def seconds_range(self) -> tuple[float, float] | None:
        """Estimated seconds of all steps: the least, where all is skipped that may be, and the most."""
        if self.estimated_seconds is not None:
            return self.estimated_seconds, self.estimated_seconds
        seconds = self.seconds_by_kind
        if not self.undecided_steps or not {FULL, CACHED} <= seconds.keys():
            return None
        decided = sum(steps.count * seconds[steps.kind] for steps in self.steps_by_kind)
        return (
            decided + self.undecided_steps * seconds[CACHED],
            decided + self.undecided_steps * seconds[FULL],
        )


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

    @property
    def seconds_range(self) -> tuple[float, float] | None:
        """The least and the most of all stages together, estimated; None where one has no estimate."""
        known = [stage.seconds_range for stage in self.stages if stage.seconds_range is not None]
        if len(known) < len(self.stages):
            return None
        return sum(least for least, _ in known), sum(most for _, most in known)

    def to_json(self) -> dict[str, Any]:
        """The plan as it is kept, with `largest_that_fits` only where the run does not fit."""
        plain = asdict(self)
        if self.fits:
            del plain["largest_that_fits"]
        return plain

    def to_print(self) -> dict[str, Any]:
        """The plan as `plan --json` prints it: as it is kept, with what all stages come to."""
        return {
            **self.to_json(),
            "estimated_seconds": self.estimated_seconds,
            "estimated_seconds_range": self.seconds_range,
        }


def from_json(plain: dict[str, Any]) -> Plan:
    """The plan that `to_json` made this of. Raises TypeError or KeyError for what is none."""
    stages = tuple(map(_stage_from_json, plain["stages"]))
    largest = plain.get("largest_that_fits", ())
    shapes = None if largest is None else tuple(Shape(**shape) for shape in largest)
    made = {"mesh": MeshShape(**plain["mesh"]), "stages": stages, "largest_that_fits": shapes}
    shape = plain.get("shape")
    return Plan(**{**plain, **made, "shape": None if shape is None else Shape(**shape)})


def _stage_from_json(plain: dict[str, Any]) -> StagePlan:
    steps = tuple(PlannedSteps(**each) for each in plain.get("steps_by_kind", ()))
    made = {"evicts": tuple(plain["evicts"]), "notes": tuple(plain["notes"]), "steps_by_kind": steps}
    return StagePlan(**{**plain, **made})


@dataclass(frozen=True)
class MeshComparison:
    """Plans of the same stages, one for each mesh, the fastest first; `default` is the mesh of a usual run.

    Of those whose skips are not known, each is as fast as without any. Those that do not fit come last, and
    have no estimate.
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
                "estimated_seconds_range": plan.seconds_range,
                "stages": [asdict(stage) for stage in plan.stages],
            }
            for plan in self.plans
        ]
        return {"model": first.model, "topology": first.topology, "meshes": meshes}


def compare(default: MeshShape, plans: Iterable[Plan]) -> MeshComparison:
    """Ranks plans that have at least one mesh among them."""

    def rank(plan: Plan) -> tuple[bool, float]:
        seconds = plan.seconds_range
        return not plan.fits, inf if seconds is None else seconds[1]

    return MeshComparison(default, tuple(sorted(plans, key=rank)))
