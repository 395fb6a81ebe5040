"""What a sampler that never ran so is to take, and whether it fits: by its plan, else by another run's rate.

Only configurations are read, of checkpoints that are on this machine, and jax is used where something has
loaded it already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from crystools_pipelines.errors import PipelineError, RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.nodes.base import locate
from crystools_pipelines.parallel.defaults import best_mesh
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.forecasting import Planned, planned
from crystools_pipelines.planning.plan import RunSpec
from crystools_pipelines.planning.topologies import TOPOLOGIES
from crystools_pipelines.weights.location import is_hub_id
from crystools_tpu.comfyui.chips_here import Chips, jax_devices
from crystools_tpu.comfyui.samplings import Sampling
from crystools_tpu.telemetry import RunReport, Shape, StageName, StageWork
from crystools_tpu.telemetry.expectation import Expectation, expectation_of_work, scaled_expectation
from crystools_tpu.telemetry.forecast import shortages
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ahead:
    """What is expected of a sampler, and of the text encoder and the decoder that go with it."""

    expected: Expectation | None = None
    plan: Planned | None = None

    @property
    def fits(self) -> bool | None:
        """By the plan; None where it does not say."""
        if self.plan is None:
            return None
        said = [stage.fits for stage in self.plan.forecast.stages]
        return False if False in said else True if self.plan.is_whole and None not in said else None

    @property
    def reason(self) -> str | None:
        """Why it does not fit."""
        return None if self.plan is None else shortages(self.plan.forecast)

    @property
    def fitting_shapes(self) -> tuple[Shape, ...]:
        """Where it does not: what would."""
        return () if self.plan is None else self.plan.forecast.fitting_shapes

    @property
    def seconds(self) -> float | None:
        """Of all that the model computes."""
        if self.expected is None or self.fits is False or (self.plan is not None and not self.plan.is_whole):
            return None
        return self.expected.seconds

    @property
    def denoising_seconds(self) -> float | None:
        """Of the sampler alone."""
        if self.expected is None or self.fits is False:
            return None
        parts = [part for key, part in self.expected.parts.items() if key[1] is StageName.DENOISE]
        known = [part.whole_seconds for part in parts]
        return None if None in known or not known else sum(each for each in known if each is not None)


class ModelsAhead:
    """Asks plans and models. `modules` are this process's, `plans` the folder of plans (the user's)."""

    def __init__(self, modules: Mapping[str, ModuleType], plans: Path | None = None) -> None:
        self._modules = modules
        self._plans = plans
        self._guard = Guard(logger)

    def of(
        self, asked: Sampling, chips: Chips | None, runs_of: Callable[[str], Sequence[RunReport]]
    ) -> Ahead:
        """By the plan; else by the newest of the runs of the model (`runs_of`) that says how quick it is."""
        with self._guard("a model could not be asked what it computes"):
            folder = local_checkpoint(asked.model_id)
            used = _of_these(chips, asked.num_devices)
            if asked.request is None or folder is None or used is None:
                return Ahead()
            if (plan := self._planned(asked, folder, used)) is not None:
                return Ahead(expectation_of_work(plan.work, plan.forecast), plan)
            if used == chips and (work := self._work(asked, folder)) is not None:
                scaled = (scaled_expectation(work, run, asked.model) for run in runs_of(asked.model))
                return Ahead(next((each for each in scaled if each is not None), None))
        return Ahead()

    def _planned(self, asked: Sampling, folder: Path, chips: Chips) -> Planned | None:
        wanted = (chips.name, chips.chips)
        names = [name for name, each in TOPOLOGIES.items() if (each.chip_name, each.chips) == wanted]
        mesh = self._mesh(asked, folder, chips) if names else None
        if mesh is None:
            return None
        return planned(RunSpec(names[0], asked.model, asked.request, folder, mesh), self._plans)

    def _mesh(self, asked: Sampling, folder: Path, chips: Chips) -> MeshShape | None:
        """That of a usual run: as the run itself makes it, or else, without jax, what was found best.

        A plan of the best one is there only where the checkpoint can have it.
        """
        assert asked.request is not None
        devices = self._devices_of(asked.model)
        if devices is None:
            return best_mesh(asked.model, chips.name, chips.devices, asked.request.branches)
        from crystools_pipelines.parallel.mesh import shape_of
        from crystools_pipelines.weights.checkpoint import Checkpoint

        pipeline, checkpoint = MODELS[asked.model].pipeline(), Checkpoint(folder)
        return shape_of(pipeline.mesh(devices[: chips.devices], checkpoint, asked.request.branches))

    def _work(self, asked: Sampling, folder: Path) -> Sequence[StageWork] | None:
        """What its stages compute; None where that cannot be known yet, or cannot be served."""
        devices = self._devices_of(asked.model)
        if devices is None or asked.request is None:
            return None
        from crystools_pipelines.weights.checkpoint import Checkpoint

        pipeline, checkpoint = MODELS[asked.model].pipeline(), Checkpoint(folder)
        try:
            prepared = pipeline.prepare(asked.request, checkpoint)
            mesh = pipeline.mesh(devices, checkpoint, asked.request.branches)
            work: Sequence[StageWork] = pipeline.work(mesh, checkpoint, asked.request, prepared)
        except PipelineError:
            return None  # the run will say why
        return work

    def _devices_of(self, model: str) -> list[object] | None:
        """jax's, where the model's pipeline is loaded too: to load it takes seconds."""
        pipeline = f"crystools_pipelines.{MODELS[model].package}.pipeline"
        return jax_devices(self._modules) if pipeline in self._modules else None


def local_checkpoint(model_id: str | None) -> Path | None:
    """The folder with a checkpoint's configurations, where they are on this machine: no hub is asked."""
    if model_id is None:
        return None
    try:
        location = locate(model_id)
    except RequestError:
        return None
    if Path(location).is_dir():
        return Path(location)
    if not is_hub_id(location):
        return None
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(location, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None


def _of_these(chips: Chips | None, num_devices: int) -> Chips | None:
    """The first so many devices, all for 0; None for more than there are."""
    if chips is None or num_devices in (0, chips.devices):
        return chips
    if not 0 < num_devices < chips.devices:
        return None
    return Chips(chips.name, num_devices * chips.chips / chips.devices, num_devices)
