"""Runs and their comparison as tables and lines."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crystools_tpu.cli.console import new_table, print_line, print_table, print_text, text, unfolded
from crystools_tpu.stage_table import ABSENT, NOT_APPLICABLE, notes, percent, stage_table, with_values
from crystools_tpu.telemetry import (
    Change,
    Comparison,
    Process,
    RunReport,
    StageComparison,
    StageReport,
    Status,
    Verdict,
    outcome,
    size_label,
)
from crystools_tpu.telemetry.applicable import applies
from crystools_tpu.telemetry.asked import asked_text, asked_title
from crystools_tpu.telemetry.comparison import SAME_RATIO, Side
from crystools_tpu.telemetry.cost import cost_text
from crystools_tpu.telemetry.device_names import devices_label
from crystools_tpu.telemetry.labels import short_id
from crystools_tpu.telemetry.step_times import step_medians
from crystools_tpu.telemetry.suspicion import MARK, is_before_zero, suspicions

_MOST_SUSPECTS: Final = 3

_RUN_FIGURES: Final = ("seconds", "s/step", "MFU")
_FIGURE_TITLES: Final = {
    "seconds": "time",
    "compile_seconds": "compile",
    "step_seconds_median": "step, median",
    "step_seconds_p95": "step, p95",
    "cached_step_seconds_median": "cached step",
    "cached_steps": "cached steps",
    "mfu_ratio": "MFU",
    "hbm_peak_bytes": "memory peak",
}
_VERDICT_STYLES: Final = {Verdict.BETTER: "green", Verdict.WORSE: "red"}


def runs_table(reports: Sequence[RunReport]) -> Table:
    """One row a run. Whose it is, is said where not all are the same program's or user's.

    What the run was gives way on a narrow terminal; how it ended, ids and figures never do.
    """
    processes = [report.process for report in reports if report.process is not None]
    with_user = len({process.user for process in processes}) > 1
    with_program = with_user or len({process.program for process in processes}) > 1
    rows = [_run_figures(report) for report in reports]
    known = with_values(_RUN_FIGURES, rows)
    figures = unfolded(*known, justify="right")
    table = new_table(*unfolded("run", "began"), text("pipeline", least=10), "status", *figures, text("what"))
    for report, row in zip(reports, rows, strict=True):
        whose = _whose(report.process, with_user=with_user)
        table.add_row(
            short_id(report.run_id),
            _moment(report.started_unix_seconds, "%m-%d %H:%M"),
            escape(report.pipeline),
            outcome(report),
            *(row[heading] for heading in known),
            escape(_what(report, whose if with_program else "")),
        )
    return table


def suspect_text(reports: Sequence[RunReport]) -> str:
    """Of which runs a figure in the list cannot be, and why; empty for none."""
    lines = []
    for report in reports:
        reasons = list(suspicions(report))
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        lines += [f"{short_id(report.run_id)}: {reason}{more}" for reason in reasons[:1]]
    if len(lines) > _MOST_SUSPECTS:
        rest = len(lines) - _MOST_SUSPECTS
        lines = [*lines[:_MOST_SUSPECTS], f"{rest} more runs: `crystools-tpu runs show` says why"]
    return "\n".join(lines)


def _run_figures(report: RunReport) -> Mapping[str, str]:
    stage = main_stage(report)
    steps = stage.step_seconds if stage else None
    seconds = report.total_seconds
    mark = MARK if is_before_zero(seconds) else ""
    return {
        "seconds": ABSENT if seconds is None else f"{seconds:.2f}{mark}",
        "s/step": f"{steps.median:.3f}" if steps else NOT_APPLICABLE if stage is None else ABSENT,
        "MFU": percent(stage.mfu) if stage and applies("utilisation", stage) else NOT_APPLICABLE,
    }


def print_stages(
    console: Console,
    report: RunReport,
    price_per_chip_hour: float | None = None,
    *,
    sentence: str | None = None,
) -> None:
    """The table of a run's stages, and what stands under it: the sentence about it, and what it cost."""
    print_table(console, stage_table(report))
    if sentence is not None:
        print_text(console, sentence)
    if (cost := cost_text(report, price_per_chip_hour)) is not None:
        print_line(console, f"cost {cost}")
    for note in notes(report):
        print_line(console, note)


def run_text(report: RunReport) -> str:
    """What the run was: its id, name, model, device, parameters, output and error, a line each."""
    device = report.device
    lines = {
        "run": report.run_id,
        "name": report.name,
        "began": _moment(report.started_unix_seconds),
        "from": _whose(report.process, with_user=True, with_pid=True),
        "model": report.model_id,
        "device": devices_label(device) if device else None,
        "params": ", ".join(f"{name}={value}" for name, value in report.params.items()),
        "output": report.output,
        "error": report.error,
    }
    return "\n".join(f"{name:<7} {value}" for name, value in lines.items() if value)


def comparison_table(comparison: Comparison, *, whole: bool = True) -> tuple[Table, int]:
    """A row a figure, grouped by stage; and how many rows are left out, as unchanged, unless it is whole."""
    figures = unfolded("A", "B", "B to A", justify="right")
    table = new_table(text("stage", least=24), *unfolded(""), *figures, *unfolded("verdict"))
    for change in comparison.changes:
        table.add_row("whole run", *_cells(change), _verdict(change))
    folded = 0
    for stage in comparison.stages:
        shown = [change for change in stage.changes if whole or not _is_unchanged(stage, change)]
        folded += len(stage.changes) - len(shown)
        for number, change in enumerate(shown):
            table.add_row(escape(stage.label) if number == 0 else "", *_cells(change), _verdict(change))
    return table, folded


def _is_unchanged(stage: StageComparison, change: Change) -> bool:
    if stage.unchanged or change.verdict in (Verdict.SAME, Verdict.NOISE):
        return True
    return change.verdict is None and change.ratio is not None and abs(change.ratio) < SAME_RATIO


def differences_text(comparison: Comparison) -> str:
    """What the runs were asked to do differently."""
    said = [
        f"{asked_title(each.name)} {asked_text(each.name, each.a)} -> {asked_text(each.name, each.b)}"
        for each in comparison.differences
    ]
    what = f"differs: {', '.join(said)}" if said else "the same work on the same kind of devices"
    a, b = _name(comparison.a, comparison.a_status), _name(comparison.b, comparison.b_status)
    return "\n".join([f"A {a}, B {b}; {what}", *comparison.remarks])


def incomparable_text(comparison: Comparison) -> str:
    """Why a comparison of the two says nothing, in one line; empty where it does."""
    reasons = "; ".join(comparison.incomparable)
    return f"not comparable: {reasons}" if reasons else ""


def change_text(stage: StageComparison | None, change: Change) -> str:
    """`denoise transformer, step, median: 4.500 -> 5.200 (+15.6%)`."""
    title, a, b, ratio = _cells(change)
    return f"{stage.label if stage else 'whole run'}, {title}: {a} -> {b} ({ratio}, {change.verdict})"


def main_stage(report: RunReport) -> StageReport | None:
    """The stage with the steps: `denoise`, or else the longest that has any."""
    stepping = [stage for stage in report.stages if step_medians(stage)]
    return max(stepping, key=lambda stage: (stage.name == "denoise", stage.seconds or 0), default=None)


def _what(report: RunReport, whose: str) -> str:
    """The workflow's name, whose the run is, and the prompt or else the model."""
    shown = report.params.get("prompt") or ("" if report.name else report.model_id)
    return ": ".join(str(text) for text in (report.name, whose, shown) if text)


def _whose(process: Process | None, *, with_user: bool, with_pid: bool = False) -> str:
    """`generate of anna, process 4242`."""
    if process is None:
        return ""
    program = process.program or "a program"
    user = f" of {process.user}" if with_user and process.user else ""
    return f"{program}{user}" + (f", process {process.pid}" if with_pid else "")


def _name(run_id: str, status: Status) -> str:
    name = short_id(run_id)
    return name if status is Status.SUCCEEDED else f"{name} ({status})"


def _cells(change: Change) -> tuple[str, str, str, str]:
    return (
        _FIGURE_TITLES[change.name],
        _figure(change, "a"),
        _figure(change, "b"),
        _ratio(change),
    )


def _ratio(change: Change) -> str:
    if change.ratio is not None:
        return f"{change.ratio:+.1%}"
    none = None in (change.a, change.b) or change.suspect or change.name == "cached_steps"
    return NOT_APPLICABLE if none else ABSENT


def _verdict(change: Change) -> str:
    if change.verdict is None:
        return "not judged" if change.suspect else ""
    style = _VERDICT_STYLES.get(change.verdict)
    return f"[{style}]{change.verdict.value}[/]" if style else change.verdict.value


def _figure(change: Change, side: Side) -> str:
    value = change.a if side == "a" else change.b
    if value is None:
        return ABSENT
    mark = MARK if side in change.suspect else ""
    if change.name.endswith("_bytes"):
        return size_label(int(value)) + mark
    if change.name == "cached_steps":
        return f"{value:.0f}"
    return (f"{value:.1%}" if change.name.endswith("_ratio") else f"{value:.3f} s") + mark


def _moment(unix_seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return datetime.datetime.fromtimestamp(unix_seconds).strftime(form)
