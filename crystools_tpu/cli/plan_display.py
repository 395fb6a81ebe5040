"""A plan as tables, and what is done while it is made: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from crystools_pipelines.requests.request import GuidedVideoRequest
from crystools_tpu.cli.console import (
    can_redraw,
    new_table,
    note_column,
    print_line,
    print_table,
    print_text,
    spinner,
    text,
    unfolded,
)
from crystools_tpu.stage_table import ABSENT
from crystools_tpu.telemetry import Shape, size_label
from crystools_tpu.telemetry.events import CACHED

if TYPE_CHECKING:
    from crystools_pipelines.kernels.flash_kernel import BlockSizes
    from crystools_pipelines.planning.plan import MeshComparison, Plan, PlannedSteps, StagePlan
    from crystools_pipelines.planning.planner import Progress as Sees
    from crystools_pipelines.planning.tuning import AttentionTuning, TunedBlocks

_FITS = {True: "[green]yes[/]", False: "[red]no[/]"}
_SMALLEST_SHARE = 0.005  # of a stage's time that has a row of its own


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Sees]:
    """Shows what a planner says of its work, for as long as the block lasts."""
    if not can_redraw(console):
        yield PlainLines(console)
        return
    columns = (
        spinner(console),
        TextColumn("{task.description:<24}"),
        TimeElapsedColumn(),
        note_column(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)


@contextlib.contextmanager
def show_tries(console: Console) -> Iterator[Callable[[int, int, TunedBlocks], None]]:
    """Shows how far a tuning is, for as long as the block lasts."""
    columns = spinner(console), MofNCompleteColumn(), TimeElapsedColumn(), note_column()
    with Progress(*columns, console=console, disable=not can_redraw(console)) as progress:
        task = progress.add_task("", total=None, note="")

        def tried(number: int, count: int, blocks: TunedBlocks) -> None:
            note = f"{_blocks(blocks.sizes)}: {_milliseconds(blocks.estimated_seconds)} ms"
            progress.update(task, completed=number, total=count, note=note)
            if not can_redraw(console):
                console.print(f"{number} of {count}: {note}", highlight=False)

        yield tried


class Bars:
    """A line for each stage, with the time it has taken."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: list[TaskID] = []
        self._search: TaskID | None = None

    def outlined(self, labels: list[str]) -> None:
        """Shows the stages."""
        self._tasks = [self._progress.add_task(label, start=False, total=1, note="") for label in labels]

    def compiling(self, index: int) -> None:
        """Shows which stage is being compiled."""
        self._progress.start_task(self._tasks[index])
        self._progress.update(self._tasks[index], note="compiling")

    def finished(self, index: int, stage: StagePlan) -> None:
        """Shows what came of it."""
        self._progress.update(self._tasks[index], completed=1, note=_outcome(stage))

    def searching(self, shape: Shape) -> None:
        """Shows the shape that is being tried."""
        if self._search is None:
            self._search = self._progress.add_task("what would fit", total=None, note="")
        self._progress.update(self._search, note=f"trying {shape}")


class PlainLines:
    """A line for each thing that is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._labels: list[str] = []

    def outlined(self, labels: list[str]) -> None:
        """Says which stages there are."""
        self._labels = labels
        print_line(self._console, f"{len(labels)} stages to compile: {', '.join(labels)}")

    def compiling(self, index: int) -> None:
        """Says which stage is being compiled."""
        print_line(self._console, f"{self._labels[index]} ...")

    def finished(self, index: int, stage: StagePlan) -> None:
        """Says what came of it."""
        print_line(self._console, f"{self._labels[index]}: {_outcome(stage)}")

    def searching(self, shape: Shape) -> None:
        """Says which shape is being tried."""
        print_line(self._console, f"trying {shape} ...")


def _outcome(stage: StagePlan) -> str:
    fits = "fits" if stage.fits else "does not fit"
    wanted = _size(stage.peak_hbm_bytes_per_chip)
    room = size_label(stage.hbm_bytes_per_chip)
    return f"{fits}: {wanted} of {room}, compiled in {stage.compile_seconds:.1f} s"


def print_plan(console: Console, plan: Plan, request: Any, *, whole: bool) -> None:
    """The stages, then where the time of each would go, and what they come to; `whole` for all of a run."""
    print_table(console, stages_table(plan, request))
    for stage in plan.stages:
        if stage.evicts:
            console.print(f"{stage.label}: {', '.join(stage.evicts)} leaves the HBM for it", highlight=False)
    if any(stage.seconds_by_kind for stage in plan.stages):
        print_table(console, time_table(plan))
    if (seconds := plan.seconds_range) is not None:
        print_text(console, _sum(seconds, whole=whole))
    for note in dict.fromkeys(f"{stage.label}: {note}" for stage in plan.stages for note in stage.notes):
        console.print(note, markup=False, highlight=False)
    console.print(
        "Seconds and MFU are estimates by the compiler's own schedule, calibrated in part, not measured.",
        highlight=False,
    )


def stages_table(plan: Plan, request: Any) -> Table:
    """A row a stage: what it takes of a chip, and its time."""
    figures = ("HBM peak", "PFLOP", "floor", "est. s", "s/step", "MFU", "compile")
    title = f"{_what(plan, request)}, mesh {plan.mesh}"
    if isinstance(request, GuidedVideoRequest) and request.branches == 1:
        title += " (one guidance branch)"
    columns = (text("stage", least=24), *unfolded("fits"), *unfolded(*figures, justify="right"))
    table = new_table(*columns, title=title)
    for stage in plan.stages:
        seconds = stage.estimated_seconds
        table.add_row(
            escape(stage.label),
            _FITS[stage.fits],
            _size(stage.peak_hbm_bytes_per_chip),
            ABSENT if stage.undecided_steps else f"{stage.flops / 1e15:.3f}",
            f"{stage.roofline_seconds:.3f}",
            ABSENT if seconds is None else f"{seconds:.3f}",
            ABSENT if seconds is None else f"{seconds / stage.steps:.3f}",
            ABSENT if stage.estimated_mfu is None else f"{stage.estimated_mfu:.1%}",
            f"{stage.compile_seconds:.1f}",
        )
        for steps in stage.steps_by_kind if len(stage.steps_by_kind) > 1 else ():
            table.add_row(*_of_kind(stage, steps))
    return table


def _of_kind(stage: StagePlan, steps: PlannedSteps) -> tuple[str, ...]:
    """A row for the steps of one kind: how many they are, or what the stage is if all are that may be."""
    seconds, between = steps.estimated_seconds, stage.seconds_range
    if stage.undecided_steps:
        of_all = None if between is None else between[0] if steps.kind == CACHED else between[1]
        count, flops = "all", ""
    else:
        of_all = None if seconds is None else steps.count * seconds
        count, flops = str(steps.count), f"{steps.count * steps.flops / 1e15:.3f}"
    figures = (ABSENT if each is None else f"{each:.3f}" for each in (of_all, seconds))
    return f"  {count} {escape(steps.kind)}", "", "", flops, "", *figures


def _span(seconds: tuple[float, float] | None) -> str:
    """What is estimated, or between what."""
    if seconds is None:
        return ABSENT
    least, most = seconds
    digits = 1 if most >= 10 else 3
    return f"{most:.3f}" if least == most else f"{least:.{digits}f} to {most:.{digits}f}"


def _sum(seconds: tuple[float, float], *, whole: bool) -> str:
    what = "from the prompt to the frames" if whole else "these stages together"
    ask = "" if seconds[0] == seconds[1] else ", by how many steps are skipped: give --skips SHARE"
    return f"{what}: {_span(seconds)} s{ask}"


def print_meshes(console: Console, comparison: MeshComparison, request: Any) -> None:
    """A row a mesh: what all its stages take of a chip, and their time, also as a share of the default's."""
    first = comparison.plans[0]
    stages = ", ".join(stage.label for stage in first.stages)
    figures = unfolded("HBM peak", "sent a chip", "est. s", "of default", justify="right")
    columns = (text("mesh", least=24), *unfolded("fits"), *figures)
    table = new_table(*columns, title=f"{_what(first, request)}: {stages}")
    usual = next(plan for plan in comparison.plans if plan.mesh == comparison.default).seconds_range
    for plan in comparison.plans:
        peaks, seconds = [stage.peak_hbm_bytes_per_chip for stage in plan.stages], plan.seconds_range
        decided = seconds is not None and not any(stage.undecided_steps for stage in plan.stages)
        sent = [bytes_ for stage in plan.stages for bytes_ in (stage.collective_bytes or {}).values()]
        table.add_row(
            f"{plan.mesh}{' (default)' if plan.mesh == comparison.default else ''}",
            _FITS[plan.fits],
            _size(None if None in peaks else max(filter(None, peaks), default=None)),
            size_label(sum(sent)) if decided else ABSENT,
            _span(seconds),
            ABSENT if seconds is None or usual is None else f"{seconds[1] / usual[1]:.0%}",
        )
    print_table(console, table)
    console.print("Seconds are estimates by the compiler's own schedule, not measured.", highlight=False)


def print_tuning(console: Console, tuning: AttentionTuning) -> None:
    """A row for each three of block sizes: a call's time, also as a multiple of the best one's."""
    shape = tuning.shape
    heads = f"{shape.lanes // shape.head_dim} heads of {shape.head_dim}, batch of {shape.batch}"
    title = (
        f"{tuning.model} on {tuning.topology}, mesh {tuning.mesh}\n"
        f"on a device: {shape.queries} tokens to {shape.keys}, {heads}"
    )
    figures = unfolded("est. ms", "of best", justify="right")
    table = new_table("queries x keys x keys at a time", *figures, title=title)
    best = tuning.blocks[0].estimated_seconds
    for blocks in tuning.blocks:
        seconds = blocks.estimated_seconds
        share = ABSENT if seconds is None or best is None else f"{seconds / best:.0%}"
        table.add_row(_blocks(blocks.sizes), _milliseconds(seconds), share)
    print_table(console, table)
    console.print("Milliseconds are estimates by the compiler's own schedule, not measured.", highlight=False)


def _blocks(sizes: BlockSizes) -> str:
    return f"{sizes.query} x {sizes.key} x {sizes.compute}"


def _milliseconds(seconds: float | None) -> str:
    return ABSENT if seconds is None else f"{seconds * 1000:.3f}"


def time_table(plan: Plan) -> Table:
    """On what each stage's seconds would be spent, and what each chip sends."""
    figures = unfolded("est. s", "share", "sent a chip", justify="right")
    columns = (text("stage", least=24), *unfolded("what"), *figures)
    table = new_table(*columns, title="where the time would go (estimate)")
    for label, spent, sent in _spendings(plan):
        shown = [name for name, seconds in spent.items() if seconds >= _SMALLEST_SHARE * sum(spent.values())]
        for number, name in enumerate(shown):
            table.add_row(
                escape(label) if number == 0 else "",
                escape(name),
                f"{spent[name]:.3f}",
                f"{spent[name] / sum(spent.values()):.1%}",
                size_label(round(sent[name])) if name in sent else "",
            )
    return table


def _spendings(plan: Plan) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, float]]]:
    """On what each stage's seconds are spent, and what it sends; where that depends on skips, a step's."""
    for stage in plan.stages:
        if not stage.undecided_steps:
            yield stage.label, stage.estimate or {}, stage.collective_bytes or {}
            continue
        for steps in stage.steps_by_kind:
            spent = dict(sorted((steps.estimate or {}).items(), key=lambda item: -item[1]))
            yield f"one {steps.kind} {stage.label}", spent, steps.collective_bytes or {}


def _what(plan: Plan, request: Any) -> str:
    frames = f", {request.num_frames} frames" if hasattr(request, "num_frames") else ""
    what = f"{plan.model}, {request.height} x {request.width}{frames}, {request.num_inference_steps} steps"
    if (scheduler := getattr(request, "scheduler", None)) is not None:
        what += f" of {scheduler}"
    if request.step_cache is not None:
        what += f", step cache {request.step_cache}"
    return f"{what}\non {plan.topology}, {size_label(plan.stages[0].hbm_bytes_per_chip)} of HBM a chip"


def _size(count: int | None) -> str:
    return ABSENT if count is None else size_label(count)
