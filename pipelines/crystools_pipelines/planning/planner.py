"""Makes a plan: compiles every stage of a run for TPUs that are not here, and reads what comes of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from crystools_pipelines.errors import RequestError
from crystools_pipelines.planning.aot import CompiledStage, TpuCompiler
from crystools_pipelines.planning.estimate import Estimate, KernelCycles, estimate, has_kernels
from crystools_pipelines.planning.fitting import largest_that_fits
from crystools_pipelines.planning.hlo import parse
from crystools_pipelines.planning.plan import Plan, RunSpec, StagePlan
from crystools_pipelines.planning.rehearsal import Rehearsal
from crystools_pipelines.planning.residency import Loads, evictions
from crystools_pipelines.planning.topologies import TOPOLOGIES, Topology
from crystools_pipelines.requests.fields import Role, values_of
from crystools_pipelines.runtime.out_of_memory import FIXED_SIZE_STAGES
from crystools_tpu.telemetry import Shape, StageName


class Progress(Protocol):
    """Is told what is being done, which may take minutes."""

    def outlined(self, labels: list[str]) -> None:
        """The run has these stages."""

    def compiling(self, index: int) -> None:
        """The stage with this place among them is being compiled."""

    def finished(self, index: int, stage: StagePlan) -> None:
        """The stage's plan is made."""

    def searching(self, shape: Shape) -> None:
        """Looks whether this shape would fit."""


@dataclass(frozen=True)
class Planner:
    """Plans a run."""

    compiler: TpuCompiler
    spec: RunSpec
    progress: Progress
    only: frozenset[StageName] | None = None
    """The stages to plan, all where it is None."""
    usable_hbm_bytes: int | None = None
    """Bytes that programs may have of a chip's HBM, instead of what the table of chips says."""

    @property
    def topology(self) -> Topology:
        """The chips."""
        return TOPOLOGIES[self.spec.topology]

    @property
    def limit_bytes(self) -> int:
        """Bytes that programs may have of a chip's HBM."""
        return self.usable_hbm_bytes or self.topology.chip.usable_hbm_bytes or self.topology.chip.hbm_bytes

    def plan(self, *, search: bool = True) -> Plan:
        """The plan, where it does not fit and `search` is true with what would.

        Raises what a run would raise before its first stage.
        """
        outline = self.compiler.outline(self.spec)
        chosen = [
            index
            for index, stage in enumerate(outline.stages)
            if self.only is None or stage.name in self.only
        ]
        self.progress.outlined([outline.stages[index].label for index in chosen])
        stages = {index: self._plan_stage(outline, index, place) for place, index in enumerate(chosen)}
        peaks = {index: stage.peak_hbm_bytes_per_chip for index, stage in stages.items()}
        leaving = evictions(
            [(self._loads(outline, index), peaks.get(index)) for index in range(len(outline.stages))],
            self.limit_bytes,
        )
        failing = [index for index, stage in stages.items() if not stage.fits]
        return Plan(
            model=self.spec.model,
            topology=self.spec.topology,
            mesh=outline.mesh,
            fits=not failing,
            stages=tuple(replace(stage, evicts=leaving[index]) for index, stage in stages.items()),
            largest_that_fits=tuple(self._largest(outline, failing)) if search or not failing else None,
            shape=_shape(self.spec.request),
        )

    def _loads(self, outline: Rehearsal, index: int) -> Loads:
        per_chip = self.topology.chip.devices_per_chip
        return {
            load.component: load.device_bytes * per_chip
            for load in outline.loads
            if load.after_stages == index
        }

    def _plan_stage(self, outline: Rehearsal, index: int, place: int) -> StagePlan:
        stage, chip, chips = outline.stages[index], self.topology.chip, self.topology.chips
        self.progress.compiling(place)
        compiled = self.compiler.compile_stage(self.spec, index)
        peak = self._peak_bytes(outline, index, compiled)
        fits = compiled.shortage is None and peak is not None and peak <= self.limit_bytes
        estimated = self._estimate(index, compiled) if fits else None
        seconds = None if estimated is None else estimated.total_seconds
        possible_flops = chips * chip.peak_bf16_flops
        plan = StagePlan(
            name=stage.name.value,
            component=stage.component,
            steps=stage.steps,
            peak_hbm_bytes_per_chip=peak,
            hbm_bytes_per_chip=self.limit_bytes,
            fits=fits,
            flops=stage.flops,
            moved_bytes=stage.moved_bytes,
            roofline_seconds=max(
                stage.flops / possible_flops,
                stage.moved_bytes / (chips * chip.hbm_bandwidth_bytes_per_second),
            ),
            estimated_seconds=seconds,
            estimated_mfu=stage.flops / (seconds * possible_flops) if seconds else None,
            compile_seconds=compiled.compile_seconds,
            collective_bytes=None
            if estimated is None
            else {kind: sent * chip.devices_per_chip for kind, sent in estimated.collective_bytes.items()},
            evicts=(),
            estimate=None
            if estimated is None
            else dict(sorted(estimated.seconds.items(), key=lambda item: -item[1])),
            notes=() if estimated is None else tuple(sorted(estimated.notes)),
        )
        self.progress.finished(place, plan)
        return plan

    def _peak_bytes(self, outline: Rehearsal, index: int, compiled: CompiledStage) -> int | None:
        """Bytes that a chip must hold for the stage; None where XLA does not say how much too much it is."""
        per_chip = self.topology.chip.devices_per_chip
        peaks = [program.memory_bytes for program in compiled.programs]
        if compiled.shortage is not None:
            if compiled.shortage.wanted_bytes is None:
                return None
            peaks.append(compiled.shortage.wanted_bytes)
        program = (max(peaks, default=0) + outline.stages[index].held_device_bytes) * per_chip
        return max(program, sum(self._loads(outline, index).values()))

    def _estimate(self, index: int, compiled: CompiledStage) -> Estimate:
        """The estimate of all programs of the stage, each as often as it runs."""
        total, chip = Estimate(), self.topology.chip
        modules = [(parse(program.hlo), program.runs) for program in compiled.programs]
        cycles: KernelCycles = {}
        if any(has_kernels(module) for module, _ in modules):
            cycles = self.compiler.kernel_cycles(self.spec, index)
        for module, runs in modules:
            total.add(estimate(module, chip, self.topology.chips * chip.devices_per_chip, cycles), runs)
        return total

    def _largest(self, outline: Rehearsal, failing: list[int]) -> Iterable[Shape]:
        """The most frames and the largest size with which what fails would fit."""
        if not failing or any(outline.stages[index].name in FIXED_SIZE_STAGES for index in failing):
            return
        request = self.spec.request
        for smaller in (_with_fewer_frames(request), _with_smaller_sizes(request)):

            def peak_of(size: int, smaller: dict[int, Any] = smaller) -> int:
                return self._peak_of(smaller[size], failing)

            size = largest_that_fits(sorted(smaller), peak_of, self.limit_bytes)
            if size is not None:
                yield _shape(smaller[size])

    def _peak_of(self, request: Any, stages: list[int]) -> int:
        """The largest of these stages' peaks; more than there is where XLA does not say."""
        self.progress.searching(_shape(request))
        spec = replace(self.spec, request=request)
        outline = self.compiler.outline(spec)
        peaks = []
        for index in stages:
            compiled = self.compiler.compile_stage(spec, index)
            peak = self._peak_bytes(outline, index, compiled)
            least = self.limit_bytes + 1 if compiled.shortage else 0
            peaks.append(max(peak or 0, least))
        return max(peaks)


def _with_fewer_frames(request: Any) -> dict[int, Any]:
    """The request with every smaller number of frames that it can have, by that; none for an image."""
    frames = getattr(request, "num_frames", 0)
    return {count: valid for count in range(1, frames) if (valid := _valid(request, num_frames=count))}


def _with_smaller_sizes(request: Any) -> dict[int, Any]:
    """The request with smaller heights and widths of about the same proportion, by their pixels."""
    smaller, multiple = {}, request.size_multiple
    for height in range(multiple, request.height, multiple):
        width = round(height * request.width / request.height / multiple) * multiple
        if valid := _valid(request, height=height, width=width):
            smaller[height * width] = valid
    return smaller


def _valid(request: Any, **changes: int) -> Any | None:
    """The changed request, None where the model cannot serve it."""
    try:
        return replace(request, **changes)
    except RequestError:
        return None


def _shape(request: Any) -> Shape:
    return Shape(**values_of(request, Role.SHAPE))
