"""Runs and their comparison as tables and lines."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from crystools_tpu.cli.console import new_table, print_line, print_table, unfolded
from crystools_tpu.stage_table import ABSENT, notes, percent, stage_table
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
from crystools_tpu.telemetry.cost import cost_text

_ID_LENGTH: Final = 8

_FIGURE_TITLES: Final = {
    "seconds": "time",
    "compile_seconds": "compile",
    "step_seconds_median": "step, median",
    "step_seconds_p95": "step, p95",
    "mfu_ratio": "MFU",
    "hbm_peak_bytes": "HBM peak",
}
_VERDICT_STYLES: Final = {Verdict.BETTER: "green", Verdict.WORSE: "red"}


def runs_table(reports: Sequence[RunReport]) -> Table:
    """One row a run. Whose it is, is said where not all are the same program's or user's.

    What the run was gives way on a narrow terminal, and then how it ended; ids and figures never do.
    """
    processes = [report.process for report in reports if report.process is not None]
    with_user = len({process.user for process in processes}) > 1
    with_program = with_user or len({process.program for process in processes}) > 1
    texts = unfolded("run", "began", "pipeline")
    figures = unfolded("seconds", "s/step", "MFU", justify="right")
    table = new_table(*texts, "status", *figures, "what")
    for report in reports:
        stage = main_stage(report)
        steps = stage.step_seconds if stage else None
        whose = _whose(report.process, with_user=with_user)
        table.add_row(
            report.run_id[:_ID_LENGTH],
            _moment(report.started_unix_seconds, "%m-%d %H:%M"),
            escape(report.pipeline),
            outcome(report),
            ABSENT if report.total_seconds is None else f"{report.total_seconds:.2f}",
            ABSENT if steps is None else f"{steps.median:.3f}",
            percent(stage.mfu if stage else None),
            Text(
                _what(report, whose if with_program else ""),
                no_wrap=True,
                overflow="ellipsis",
            ),
        )
    return table


def print_stages(console: Console, report: RunReport, price_per_chip_hour: float | None = None) -> None:
    """The table of a run's stages, and what stands under it: what it cost, where that is known."""
    print_table(console, stage_table(report))
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
        "device": f"{device.count} x {device.kind}" if device else None,
        "params": ", ".join(f"{name}={value}" for name, value in report.params.items()),
        "output": report.output,
        "error": report.error,
    }
    return "\n".join(f"{name:<7} {value}" for name, value in lines.items() if value)


def comparison_table(comparison: Comparison) -> Table:
    """A row a figure, grouped by stage."""
    figures = unfolded("A", "B", "B to A", justify="right")
    table = new_table(*unfolded("stage", ""), *figures, *unfolded("verdict"))
    for change in comparison.changes:
        table.add_row("whole run", *_cells(change), _verdict(change))
    for stage in comparison.stages:
        for number, change in enumerate(stage.changes):
            table.add_row(escape(stage.label) if number == 0 else "", *_cells(change), _verdict(change))
    return table


def differences_text(comparison: Comparison) -> str:
    """What the runs were asked to do differently."""
    said = [f"{difference.name} {difference.a} -> {difference.b}" for difference in comparison.differences]
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
    stepping = [stage for stage in report.stages if stage.step_seconds is not None]
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
    name = run_id[:_ID_LENGTH]
    return name if status is Status.SUCCEEDED else f"{name} ({status})"


def _cells(change: Change) -> tuple[str, str, str, str]:
    return (
        _FIGURE_TITLES[change.name],
        _figure(change, change.a),
        _figure(change, change.b),
        ABSENT if change.ratio is None else f"{change.ratio:+.1%}",
    )


def _verdict(change: Change) -> str:
    if change.verdict is None:
        return ""
    style = _VERDICT_STYLES.get(change.verdict)
    return f"[{style}]{change.verdict.value}[/]" if style else change.verdict.value


def _figure(change: Change, value: float | None) -> str:
    if value is None:
        return ABSENT
    if change.name.endswith("_bytes"):
        return size_label(int(value))
    return f"{value:.1%}" if change.name.endswith("_ratio") else f"{value:.3f} s"


def _moment(unix_seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return datetime.datetime.fromtimestamp(unix_seconds).strftime(form)
