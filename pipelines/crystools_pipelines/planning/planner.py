"""Makes a plan: compiles every stage of a run for TPUs that are not here, and reads what comes of it."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Protocol, TypeAlias

from crystools_pipelines.errors import RequestError
from crystools_pipelines.planning.aot import CompiledStage, TpuCompiler
from crystools_pipelines.planning.estimate import Estimate, KernelCycles, estimate, has_kernels
from crystools_pipelines.planning.fitting import largest_that_fits
from crystools_pipelines.planning.hlo import parse
from crystools_pipelines.planning.plan import Plan, PlannedSteps, RunSpec, StagePlan
from crystools_pipelines.planning.rehearsal import Rehearsal, RehearsedStage, RehearsedStep, Work
from crystools_pipelines.planning.residency import Loads, evictions
from crystools_pipelines.planning.step_kinds import totals
from crystools_pipelines.planning.topologies import TOPOLOGIES, Topology
from crystools_pipelines.requests.fields import Role, values_of
from crystools_pipelines.runtime.out_of_memory import FIXED_SIZE_STAGES
from crystools_tpu.telemetry import Shape, StageName

Estimates: TypeAlias = dict[tuple[int, bool], Estimate]
"""By a program's place in its stage, and whether it is of a step that is skipped."""


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
        stage = outline.stages[index]
        self.progress.compiling(place)
        compiled = self.compiler.compile_stage(self.spec, index)
        peak = self._peak_bytes(outline, index, compiled)
        fits = compiled.shortage is None and peak is not None and peak <= self.limit_bytes
        estimates = self._estimates(index, stage, compiled) if fits else None
        undecided = sum(map(_is_undecided, stage.steps[1:]))
        plan = StagePlan(
            name=stage.name.value,
            component=stage.component,
            peak_hbm_bytes_per_chip=peak,
            hbm_bytes_per_chip=self.limit_bytes,
            fits=fits,
            compile_seconds=compiled.compile_seconds,
            evicts=(),
            notes=() if estimates is None else _notes(estimates),
            **totals(self._kinds(stage, estimates), undecided, self.topology),
        )
        self.progress.finished(place, plan)
        return plan

    def _peak_bytes(self, outline: Rehearsal, index: int, compiled: CompiledStage) -> int | None:
        """Bytes that a chip must hold for the stage; None where XLA does not say how much too much it is."""
        per_chip, stage = self.topology.chip.devices_per_chip, outline.stages[index]
        unread = stage.unread_device_bytes
        peaks = [program.memory_bytes + unread.get(i, 0) for i, program in enumerate(compiled.programs)]
        if compiled.shortage is not None:
            if compiled.shortage.wanted_bytes is None:
                return None
            peaks.append(compiled.shortage.wanted_bytes)
        program = (max(peaks, default=0) + stage.held_device_bytes) * per_chip
        return max(program, sum(self._loads(outline, index).values()))

    def _estimates(self, index: int, stage: RehearsedStage, compiled: CompiledStage) -> Estimates:
        """The estimate of each program of the stage, also of one in which the device decides to skip."""
        chip = self.topology.chip
        modules = [parse(program.hlo) for program in compiled.programs]
        cycles: KernelCycles = {}
        if any(has_kernels(module) for module in modules):
            cycles = self.compiler.kernel_cycles(self.spec, index)
        devices = self.topology.chips * chip.devices_per_chip
        ran = {
            (program, skipped)
            for step in stage.steps
            for _, skipped in step.outcomes
            for program in step.programs
        }
        return {
            (program, skipped): estimate(modules[program], chip, devices, cycles, skipped=skipped)
            for program, skipped in sorted(ran)
        }

    def _kinds(self, stage: RehearsedStage, estimates: Estimates | None) -> list[PlannedSteps]:
        """The stage's steps by kind; those of which the device decides are counted as neither."""
        works: defaultdict[str, list[Work]] = defaultdict(list)
        spent: defaultdict[str, list[Estimate]] = defaultdict(list)
        decided = Counter(
            step.work.kind for i, step in enumerate(stage.steps) if i == 0 or not _is_undecided(step)
        )
        for step in stage.steps:
            for work, skipped in step.outcomes:
                works[work.kind].append(work)
                if estimates is not None:
                    spent[work.kind] += (estimates[program, skipped] for program in step.programs)
        per_chip = self.topology.chip.devices_per_chip
        return [
            _mean_step(kind, decided[kind], those, None if estimates is None else spent[kind], per_chip)
            for kind, those in works.items()
        ]

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


def _mean_step(
    kind: str, count: int, works: list[Work], spent: list[Estimate] | None, devices_per_chip: int
) -> PlannedSteps:
    """So many steps of a kind: one is the mean of `works`, and of what these have `spent`, if known."""
    total, share = Estimate(), 1 / len(works)
    for each in spent or ():
        total.add(each)
    sent = {of: bytes_ * devices_per_chip * share for of, bytes_ in total.collective_bytes.items()}
    seconds = {of: spent_ * share for of, spent_ in total.seconds.items()}
    return PlannedSteps(
        kind=kind,
        count=count,
        flops=fmean(work.flops for work in works),
        moved_bytes=fmean(work.moved_bytes for work in works),
        estimated_seconds=None if spent is None else sum(seconds.values()),
        collective_bytes=None if spent is None else sent,
        estimate=None if spent is None else seconds,
    )


def _is_undecided(step: RehearsedStep) -> bool:
    """Whether the device decides of it; the first step of a stage has nothing to take instead, and runs."""
    return step.cached is not None


def _notes(estimates: Estimates) -> tuple[str, ...]:
    notes = {note for each in estimates.values() for note in each.notes}
    for (program, skipped), each in estimates.items():
        if skipped and each.seconds == estimates[program, False].seconds:
            notes.add("what is skipped is computed all the same: the compiler has made no condition of it")
    return tuple(sorted(notes))


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
