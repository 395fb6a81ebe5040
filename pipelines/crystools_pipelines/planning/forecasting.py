"""What a kept plan says of a run that is about to begin. Imports no jax until it is given devices."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystools_pipelines.planning.cache import plans_folder, read_plans
from crystools_pipelines.planning.plan import Plan, RunSpec, StagePlan
from crystools_pipelines.planning.topologies import topology_of
from crystools_tpu.telemetry import Forecast, StageForecast, StageName, StageWork
from crystools_tpu.telemetry.guard import Guard

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from crystools_pipelines.weights.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

METHOD = "the TPU compiler's own estimate"
_PLANNED_DTYPE = "bfloat16"  # which is also the default on a TPU


@dataclass(frozen=True)
class Planned:
    """What plans say of a run: what is expected of its stages, and what these compute.

    `is_whole` where no stage of the run is left out.
    """

    forecast: Forecast
    work: tuple[StageWork, ...]
    is_whole: bool


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
    from crystools_pipelines.parallel.mesh import shape_of

    topology = topology or topology_of(list(mesh.devices.flat))
    if topology is None or dtype not in (None, _PLANNED_DTYPE):
        return None
    with Guard(logger)("what was planned of this run cannot be read"):
        spec = RunSpec(
            topology, model, request, checkpoint.configurations(), shape_of(mesh), checkpoint.location
        )
        return forecast_of(_plans_of(spec, folder), request.num_inference_steps)
    return None


def planned(spec: RunSpec, folder: Path | None = None) -> Planned | None:
    """What the plans in `folder` (the user's) say of this run, whose mesh is given; None without any."""
    with Guard(logger)("what was planned of this run cannot be read"):
        plans = _plans_of(spec, folder)
        if (forecast := forecast_of(plans, spec.request.num_inference_steps)) is not None:
            stages = [stage for stage, _ in _first_of_each(plans)]
            names = {stage.name for stage in stages}
            is_whole = {StageName.TEXT_ENCODE, StageName.DENOISE, StageName.VAE_DECODE} <= names
            return Planned(forecast, _work(stages, spec.request.num_inference_steps), is_whole)
    return None


def _plans_of(spec: RunSpec, folder: Path | None) -> list[Plan]:
    folder = plans_folder() if folder is None else folder
    if not folder.is_dir():
        return []
    return [plan for plan in read_plans(folder, spec) if plan.mesh == spec.mesh]


def _first_of_each(plans: Iterable[Plan]) -> list[tuple[StagePlan, Plan]]:
    """Each stage as the first plan has it that has it, and that plan."""
    stages: dict[tuple[str, str | None], tuple[StagePlan, Plan]] = {}
    for plan in plans:
        for stage in plan.stages:
            stages.setdefault((stage.name, stage.component), (stage, plan))
    return list(stages.values())


def _work(stages: Sequence[StagePlan], denoising_steps: int) -> tuple[StageWork, ...]:
    """What the stages compute, where the run has so many denoising steps: each transformer its share."""
    planned_steps = sum(stage.steps for stage in stages if stage.name == StageName.DENOISE)
    work = []
    for stage in stages:
        steps = stage.steps
        if stage.name == StageName.DENOISE:
            steps = round(steps * denoising_steps / planned_steps)
        work.append(
            StageWork(StageName(stage.name), stage.component, steps, stage.flops / stage.steps * steps)
        )
    return tuple(work)


def forecast_of(plans: Iterable[Plan], denoising_steps: int) -> Forecast | None:
    """The forecast of each stage of a run of so many steps by the first plan that has it; None without any.

    A plan of some stages alone counts for these. Shapes that would fit are said where all that does not is of
    one plan.
    """
    found = _first_of_each(plans)
    if not found:
        return None
    stages = [stage for stage, _ in found]
    failing = list({id(plan): plan for stage, plan in found if not stage.fits}.values())
    shapes = (failing[0].largest_that_fits or ()) if len(failing) == 1 else ()
    return Forecast(
        method=METHOD,
        hbm_limit_bytes_per_chip=int(stages[0].hbm_bytes_per_chip),
        stages=tuple(
            _stage_forecast(stage, is_as_long=_denoising_steps(plan) == denoising_steps)
            for stage, plan in found
        ),
        would_fit=tuple(map(str, shapes)),
        fitting_shapes=tuple(shapes),
    )


def _denoising_steps(plan: Plan) -> int:
    return sum(stage.steps for stage in plan.stages if stage.name == StageName.DENOISE)


def _stage_forecast(stage: StagePlan, *, is_as_long: bool) -> StageForecast:
    """Where steps are skipped, the mean step is known only of a run that has as many as the plan."""
    seconds, peak = stage.estimated_seconds, stage.peak_hbm_bytes_per_chip
    if len(stage.seconds_by_kind) > 1 and not is_as_long:
        seconds = None
    return StageForecast(
        name=StageName(stage.name),
        component=stage.component,
        fits=stage.fits,
        step_seconds=None if seconds is None else seconds / stage.steps,
        hbm_peak_bytes_per_chip=None if peak is None else int(peak),
    )
