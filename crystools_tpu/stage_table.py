"""Stages and steps in words and as a table, as commands and nodes show them."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table

from crystools_tpu.telemetry import BytesTransferred, Ratio, RunReport, StageReport, StepFinished, eta_seconds

MIB = 1024**2
GIB = 1024**3
ABSENT = "n/a"

_TEXT_COLUMNS = 96


def stage_table(report: RunReport) -> Table:
    """One row a stage: where each second went, and the peak of HBM on the fullest chip.

    Below a stage of which there was a forecast is what that said.
    """
    total = "" if report.total_seconds is None else f"in {report.total_seconds:.2f} s"
    title = f"{report.pipeline} {report.status.value} {total}".rstrip()
    table = Table(title=title, box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for heading in ("seconds", "compile", "steps", "s/step", "MFU", "bound", "HBM peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in report.stages:
        table.add_row(*_row(stage))
        step, peak = stage.predicted_step_seconds, stage.predicted_hbm_peak_bytes
        if step is not None or peak is not None:
            table.add_row("  forecast", "", "", "", _seconds(step), "", "", _size(peak), style="dim")
    return table


def stage_text(report: RunReport) -> str:
    """The stage table as plain text, in lines of 96 characters at most, and below it the run's warnings."""
    console = Console(file=io.StringIO(), width=_TEXT_COLUMNS, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(stage_table(report))
        for warning in report.warnings:
            console.print(warning, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def forecast_note(stage: StageReport) -> str:
    """`3:45 left of denoise by the forecast`, of a stage that begins; empty where it has none."""
    eta = eta_seconds(stage)
    return "" if eta is None else f"{clock(eta)} left of {stage.name.value} by the forecast"


def step_note(event: StepFinished) -> str:
    """`1.23 s, 1:10 left of denoise, 3:20 of the run, MFU 39.1%`; a compile or a NaN is said."""
    parts = [f"{event.record.seconds:.3f} s" + (" (with compile)" if event.record.compiled else "")]
    run_eta = None if event.progress is None else event.progress.run_eta_seconds
    if event.eta_seconds is not None:
        parts.append(f"{clock(event.eta_seconds)} left of {event.stage_name.value}")
    if run_eta is not None:
        parts.append(f"{clock(run_eta)} {'left ' if event.eta_seconds is None else ''}of the run")
    if event.mfu is not None:
        parts.append(f"MFU {percent(event.mfu)}")
    if event.record.finite is False:
        parts.append("NOT FINITE")
    return ", ".join(parts)


def transfer_note(event: BytesTransferred) -> str:
    """`1.20 GiB of 28.00 GiB, 95.0 MiB/s, 4:49 left of download`."""
    total = "" if event.bytes_total is None else f" of {size(event.bytes_total)}"
    parts = [f"{size(event.bytes_done)}{total}"]
    if event.bytes_per_second is not None:
        parts.append(f"{size(int(event.bytes_per_second))}/s")
    if event.eta_seconds is not None:
        parts.append(f"{clock(event.eta_seconds)} left of {event.stage_name.value}")
    return ", ".join(parts)


def stage_label(stage: StageReport) -> str:
    """`load vae`, or just the stage's name."""
    return f"{stage.name.value} {stage.component}" if stage.component else stage.name.value


def _row(stage: StageReport) -> tuple[str, ...]:
    cache = f" {stage.compile_cache.value}" if stage.compile_cache else ""
    peak = max((use.peak_bytes for use in stage.hbm), default=None)
    return (
        stage_label(stage),
        _seconds(stage.seconds),
        f"{stage.compile_seconds:.2f}{cache}" if stage.compile_cache else "-",
        str(len(stage.steps)) if stage.steps else "-",
        _seconds(stage.step_seconds.median if stage.step_seconds else None) if stage.steps else "-",
        percent(stage.mfu) if stage.steps else "-",
        (stage.bound.value if stage.bound else ABSENT) if stage.steps else "-",
        _size(peak),
    )


def _size(size_bytes: int | None) -> str:
    return ABSENT if size_bytes is None else size(size_bytes)


def _seconds(seconds: float | None) -> str:
    return ABSENT if seconds is None else f"{seconds:.3f}"


def size(size_bytes: int) -> str:
    """`31.25 GiB`, below one of them `57.3 MiB`."""
    return f"{size_bytes / GIB:.2f} GiB" if size_bytes >= GIB else f"{size_bytes / MIB:.1f} MiB"


def clock(seconds: float) -> str:
    """`1:10`, from an hour on `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(ratio: Ratio | None) -> str:
    """`39.1%`, or `n/a`."""
    return ABSENT if ratio is None else f"{ratio.ratio:.1%}"
