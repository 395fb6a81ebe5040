"""What a kept plan says of a run that is about to begin."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from crystools_pipelines.parallel.mesh import shape_of
from crystools_pipelines.planning.cache import plans_folder, read_plans
from crystools_pipelines.planning.plan import Plan, RunSpec, StagePlan
from crystools_pipelines.planning.topologies import topology_of
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu.telemetry import Forecast, StageForecast, StageName
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)

METHOD = "the TPU compiler's own estimate"
_PLANNED_DTYPE = "bfloat16"  # which is also the default on a TPU


def kept_forecast(
    model: str,
    request: Any,
    checkpoint: Checkpoint,
    mesh: Mesh,
    dtype: str | None = None,
    *,
    topology: str | None = None,
    folder: Path | None = None,
) -> Forecast | None:
    """What the plans in `folder` (the user's) say of a run on this mesh; None where there are none.

    Nothing is compiled. On what is no TPU of TOPOLOGIES there are none, unless `topology` says that it were
    one. A folder that cannot be used is a line in the log, and no more.
    """
    topology = topology or topology_of(list(mesh.devices.flat))
    if topology is None or dtype not in (None, _PLANNED_DTYPE):
        return None
    shape = shape_of(mesh)
    with Guard(logger)("what was planned of this run cannot be read"):
        spec = RunSpec(topology, model, request, checkpoint.configurations(), shape)
        plans = read_plans(plans_folder() if folder is None else folder, spec)
        return forecast_of(plan for plan in plans if plan.mesh == shape)
    return None


def forecast_of(plans: Iterable[Plan]) -> Forecast | None:
    """The forecast of each stage by the first plan that has it; None without any.

    A plan of some stages alone counts for these. Shapes that would fit are said where all that does not is of
    one plan.
    """
    stages: dict[tuple[str, str | None], StagePlan] = {}
    failing: list[Plan] = []
    for plan in plans:
        new = {(stage.name, stage.component): stage for stage in plan.stages}
        new = {key: stage for key, stage in new.items() if key not in stages}
        stages |= new
        failing += [plan] if not all(stage.fits for stage in new.values()) else []
    if not stages:
        return None
    shapes = (failing[0].largest_that_fits or ()) if len(failing) == 1 else ()
    return Forecast(
        method=METHOD,
        hbm_limit_bytes_per_chip=int(next(iter(stages.values())).hbm_bytes_per_chip),
        stages=tuple(map(_stage_forecast, stages.values())),
        would_fit=tuple(map(str, shapes)),
    )


def _stage_forecast(stage: StagePlan) -> StageForecast:
    seconds, peak = stage.estimated_seconds, stage.peak_hbm_bytes_per_chip
    return StageForecast(
        name=StageName(stage.name),
        component=stage.component,
        fits=stage.fits,
        step_seconds=None if seconds is None else seconds / stage.steps,
        hbm_peak_bytes_per_chip=None if peak is None else int(peak),
    )
