"""Stages and steps in words and as a table, as commands and nodes show them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crystools_tpu.telemetry import (
    BytesTransferred,
    Node,
    Ratio,
    RunReport,
    StageReport,
    StepFinished,
    eta_seconds,
    outcome,
    run_warnings,
    size_label,
    stage_label,
)
from crystools_tpu.telemetry.applicable import StageFigure, applies
from crystools_tpu.telemetry.device_names import memory_of
from crystools_tpu.telemetry.events import CACHED
from crystools_tpu.telemetry.stage_tree import notable, parent_of, walk
from crystools_tpu.telemetry.step_times import count_cached, step_medians
from crystools_tpu.telemetry.suspicion import MARK, is_suspect, suspect_figures
from crystools_tpu.telemetry.words import skipped_note

ABSENT: Final = "n/a"
"""What could have been known, and is not."""

NOT_APPLICABLE: Final = "-"
"""What there is not to be known."""

_NOTHING: Final = frozenset({"", ABSENT, NOT_APPLICABLE, "none"})

_MOST_RATIO: Final = 99.99
_TEXT_COLUMNS: Final = 96
_LEAST_OF_LABEL: Final = 24
_MOST_ROWS: Final = 40
_DEEPEST: Final = 4
_MOST_CLASSES: Final = 12


def stage_table(report: RunReport) -> Table:
    """One row a stage: where each second went, and the peak of memory on the fullest chip.

    What ran within a node stands below it, and below a stage of which there was a forecast what that said.
    Of a long workflow there are the slowest nodes and those that did not succeed, in their order, and the sum
    of the others. What `notes` says belongs under it.
    """
    table = Table(title=Text(_title(report)), box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("stage", overflow="ellipsis", min_width=_LEAST_OF_LABEL)  # alone gives way
    shown = notable(report.stages, _MOST_ROWS)
    columns = _columns([report.stages[position] for position in shown])
    memory = memory_of(report)
    for heading in columns:
        table.add_column(heading.replace("HBM", memory), justify="right", no_wrap=True)

    def add(label: str, cells: Mapping[str, str], style: str = "") -> None:
        known = (cells.get(heading, "") for heading in columns)
        table.add_row(Text(label, no_wrap=True, overflow="ellipsis"), *known, style=style)

    for position, depth in walk(report.stages):
        if position not in shown:
            continue
        stage, indent = report.stages[position], "  " * min(depth, _DEEPEST)
        add(indent + stage_label(stage), {heading: cell(stage) for heading, cell in columns.items()})
        if skipped := count_cached(stage):
            add(f"{indent}  of them cached", {"steps": str(skipped), "s/step": _cached_seconds(stage)}, "dim")
        step, peak = stage.predicted_step_seconds, stage.predicted_hbm_peak_bytes
        if step is not None or peak is not None:
            # The forecast is of the mean step, which is none of a mixture's.
            label = "forecast, mean step" if skipped and step is not None else "forecast"
            add(f"{indent}  {label}", {"s/step": _seconds(step), "HBM peak": _size(peak)}, style="dim")
    if left_out := len(report.stages) - len(shown):
        seconds = [
            stage.seconds or 0.0
            for position, stage in enumerate(report.stages)
            if position not in shown and parent_of(report.stages, position) is None
        ]
        add(f"{left_out} others, each shorter", {"seconds": _seconds(sum(seconds))}, style="dim")
    return table


def stage_text(report: RunReport) -> str:
    """The stage table as plain text, in lines of 96 characters at most, and below it what `notes` says."""
    console = Console(file=io.StringIO(), width=_TEXT_COLUMNS, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(stage_table(report))
        for note in notes(report):
            console.print(note, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def notes(report: RunReport) -> tuple[str, ...]:
    """What stands under the table: nodes that were not executed, steps that were skipped, and warnings."""
    cached = (_cached_text(report.cached_nodes),) if report.cached_nodes else ()
    skipped = (note,) if (note := skipped_note(report)) is not None else ()
    return (*cached, *skipped, *(f"warning: {warning}" for warning in run_warnings(report)))


def _title(report: RunReport) -> str:
    """`wan2.1-t2v succeeded in 12.34 s`, of a workflow by its name."""
    name = report.pipeline if report.name is None else f"{report.name} ({report.pipeline})"
    total = "" if report.total_seconds is None else f" in {report.total_seconds:.2f} s"
    return f"{name} {outcome(report)}{total}"


def _cached_text(nodes: Iterable[Node]) -> str:
    """`3 cached: VAELoader, CLIPTextEncode x2`."""
    classes = Counter(node.class_type for node in nodes)
    said = [f"{name} x{count}" if count > 1 else name for name, count in classes.items()]
    more = len(said) - _MOST_CLASSES
    return f"{classes.total()} cached: {', '.join(said[:_MOST_CLASSES])}" + (
        f" and {more} more classes" if more > 0 else ""
    )


def forecast_note(stage: StageReport) -> str:
    """`3:45 left of denoise by the forecast`, of a stage that begins; empty where it has none."""
    eta = eta_seconds(stage)
    return "" if eta is None else f"{clock(eta)} left of {stage.name.value} by the forecast"


def step_note(event: StepFinished) -> str:
    """`1.23 s, 1:10 left of denoise, 3:20 of the run, MFU 39.1%`; a cached step, a compile, a NaN is said."""
    marks = ["cached"] * (event.record.kind == CACHED) + ["with compile"] * event.record.compiled
    parts = [f"{event.record.seconds:.3f} s" + (f" ({', '.join(marks)})" if marks else "")]
    run_eta = None if event.progress is None else event.progress.run_eta_seconds
    stage_eta = None if event.step + 1 == event.steps_total else event.eta_seconds
    if stage_eta is not None:
        parts.append(f"{clock(stage_eta)} left of {event.stage_name.value}")
    if run_eta is not None:
        parts.append(f"{clock(run_eta)} {'left ' if stage_eta is None else ''}of the run")
    if event.mfu is not None:
        parts.append(f"MFU {percent(event.mfu)}")
    if event.record.finite is False:
        parts.append("NOT FINITE")
    return ", ".join(parts)


def transfer_note(event: BytesTransferred) -> str:
    """`1.20 GiB of 28.00 GiB, 95.0 MiB/s, 4:49 left of download`."""
    total = "" if event.bytes_total is None else f" of {size_label(event.bytes_total)}"
    parts = [f"{size_label(event.bytes_done)}{total}"]
    if event.bytes_per_second is not None:
        parts.append(f"{size_label(int(event.bytes_per_second))}/s")
    if event.eta_seconds is not None:
        parts.append(f"{clock(event.eta_seconds)} left of {event.stage_name.value}")
    return ", ".join(parts)


def with_values(headings: Iterable[str], rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The headings of columns in which some row says something; nothing is known of the others."""
    return [heading for heading in headings if any(row[heading] not in _NOTHING for row in rows)]


def _columns(stages: Sequence[StageReport]) -> Mapping[str, Callable[[StageReport], str]]:
    """What the table has of each stage: no column that says nothing."""
    rows = [{heading: cell(stage) for heading, cell in _FIGURES.items()} for stage in stages]
    said = {"seconds", *with_values(_FIGURES, rows)}
    if any(stage.predicted_step_seconds is not None for stage in stages):
        said.add("s/step")
    if any(stage.predicted_hbm_peak_bytes is not None for stage in stages):
        said.add("HBM peak")
    return {heading: cell for heading, cell in _FIGURES.items() if heading in said}


def _compile(stage: StageReport) -> str:
    return f"{stage.compile_seconds:.2f} {stage.compile_cache.value}" if stage.compile_cache else "none"


def _step_seconds(stage: StageReport) -> str:
    return _seconds(stage.step_seconds.median if stage.step_seconds else None)


def _cached_seconds(stage: StageReport) -> str:
    seconds = _seconds(step_medians(stage).get(CACHED))
    return seconds + MARK if "cached_step_seconds_median" in suspect_figures(stage) else seconds


def _figure(
    name: str, applicable: StageFigure | None, cell: Callable[[StageReport], str]
) -> Callable[[StageReport], str]:
    """The cell of a figure, with a mark where it cannot be."""

    def shown(stage: StageReport) -> str:
        text = cell(stage)
        if text in _NOTHING and applicable is not None and not applies(applicable, stage):
            return NOT_APPLICABLE
        return text + MARK if name in suspect_figures(stage) else text

    return shown


def _fullest(stage: StageReport) -> int | None:
    return max((use.peak_bytes for use in stage.hbm), default=None)


def _size(size_bytes: int | None) -> str:
    return ABSENT if size_bytes is None else size_label(size_bytes)


def _seconds(seconds: float | None) -> str:
    return ABSENT if seconds is None else f"{seconds:.3f}"


def clock(seconds: float) -> str:
    """`1:10`, from an hour on `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(ratio: Ratio | None) -> str:
    """`39.1%`, or `n/a`; `855.0%?` for one that cannot be, and `>9999%?` for any number of digits."""
    if ratio is not None and ratio.ratio > _MOST_RATIO:
        return f">{_MOST_RATIO:.0%}{MARK}"
    return ABSENT if ratio is None else f"{ratio.ratio:.1%}{MARK if is_suspect(ratio) else ''}"


_FIGURES: Final[Mapping[str, Callable[[StageReport], str]]] = {
    "seconds": _figure("seconds", None, lambda stage: _seconds(stage.seconds)),
    "compile": _figure("compile_seconds", "compile", _compile),
    "steps": _figure("steps", "steps", lambda stage: str(len(stage.steps) or ABSENT)),
    "s/step": _figure("step_seconds_median", "steps", _step_seconds),
    "MFU": _figure("", "utilisation", lambda stage: percent(stage.mfu)),
    "bound": _figure("", "utilisation", lambda stage: stage.bound.value if stage.bound else ABSENT),
    "HBM peak": _figure("hbm_peak_bytes", "memory", lambda stage: _size(_fullest(stage))),
    "RAM peak": _figure(
        "", "host_memory", lambda stage: _size(stage.host_memory.peak_bytes if stage.host_memory else None)
    ),
}
