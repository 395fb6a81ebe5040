"""What kept plans say of other meshes and shapes than those of a run. Nothing is compiled."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.cache import plans_folder, read_other_shapes, read_plans
from crystools_pipelines.planning.plan import Plan, RunSpec
from crystools_tpu.telemetry import Shape, StageName

Key = TypeVar("Key")


@dataclass(frozen=True)
class Alternative:
    """Another mesh, or with `shape` another shape; the compiler's own estimate of a denoising step, in which
    nothing is skipped.
    """

    mesh: MeshShape
    shape: Shape | None
    step_seconds: float


def kept_alternatives(
    spec: RunSpec, mesh: MeshShape, folder: Path | None = None
) -> tuple[float | None, list[Alternative]]:
    """The estimate of a step of a run with this mesh, None where no plan is kept of it, and of all others.

    Of another shape it is that with its best mesh. A folder that cannot be read has none.
    """
    folder = plans_folder() if folder is None else folder
    try:
        meshes = _best(read_plans(folder, spec), lambda plan: plan.mesh)
        shapes = _best(read_other_shapes(folder, spec), lambda plan: plan.shape)
    except OSError:
        return None, []
    own = meshes.pop(mesh, None)
    others = [Alternative(plan.mesh, None, seconds) for plan, seconds in meshes.values()]
    others += [Alternative(plan.mesh, plan.shape, seconds) for plan, seconds in shapes.values()]
    return None if own is None else own[1], sorted(others, key=lambda other: other.step_seconds)


def _best(plans: Iterable[Plan], key_of: Callable[[Plan], Key]) -> dict[Key, tuple[Plan, float]]:
    """Of each key the plan whose step is estimated shortest."""
    best: dict[Key, tuple[Plan, float]] = {}
    for plan in plans:
        key, seconds = key_of(plan), _step_seconds(plan)
        if seconds is not None and (key not in best or seconds < best[key][1]):
            best[key] = plan, seconds
    return best


def _step_seconds(plan: Plan) -> float | None:
    """The mean over all transformers; None where one has no estimate, or the plan has none of them."""
    denoising = [stage for stage in plan.stages if stage.name == StageName.DENOISE]
    seconds = [stage.steps * stage.step_seconds for stage in denoising if stage.step_seconds is not None]
    if not seconds or len(seconds) < len(denoising):
        return None
    return sum(seconds) / sum(stage.steps for stage in denoising)
