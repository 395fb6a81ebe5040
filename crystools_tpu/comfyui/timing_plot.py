"""Draws run reports with matplotlib: stages on a time line, step times, HBM of each chip.

The canvas is used directly: pyplot would keep figures and a backend for the whole process.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crystools_tpu.telemetry import HbmUsage, RunReport, StageName, StageReport, outcome, stage_label
from crystools_tpu.telemetry.device_names import device_of, memory_label
from crystools_tpu.telemetry.events import CACHED
from crystools_tpu.telemetry.stage_tree import notable, walk
from crystools_tpu.telemetry.step_times import count_cached, is_timed, step_medians

if TYPE_CHECKING:
    Pixels: TypeAlias = np.ndarray[tuple[int, int, int], np.dtype[np.float32]]

_INK: Final = "#131820"
_MUTED: Final = "#566170"
_LINE: Final = "#dbe1e8"
_SUNKEN: Final = "#e9edf2"
_CRITICAL: Final = "#c3262f"
_LOAD, _ENCODE, _DENOISE, _VAE, _NODE = "#5b6b80", "#0e8a7d", "#2f6fdb", "#7d4fd6", "#b3600a"
_COLOURS: Final = {
    StageName.DOWNLOAD: _LOAD,
    StageName.LOAD: _LOAD,
    StageName.SAVE: _LOAD,
    StageName.TEXT_ENCODE: _ENCODE,
    StageName.IMAGE_ENCODE: _ENCODE,
    StageName.DENOISE: _DENOISE,
    StageName.VAE_ENCODE: _VAE,
    StageName.VAE_DECODE: _VAE,
    StageName.NODE: _NODE,
}
"""The page's colours, in its light theme."""

_DESIGN_WIDTH, _DESIGN_HEIGHT = 1280, 720
_DPI: Final = 100
_MAX_ROWS: Final = 40
_MOST_LINES: Final = 16
_MOST_LETTERS: Final = 40


def draw(reports: Sequence[RunReport], width: int, height: int) -> Pixels:
    """The picture, float32 `[height, width, 3]` in 0..1. Texts grow with it."""
    dpi = _DPI * min(width / _DESIGN_WIDTH, height / _DESIGN_HEIGHT)
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    canvas = FigureCanvasAgg(figure)
    time_line, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.25, 1))[:, 0]
    steps, hbm = lower.subplots(1, 2, width_ratios=(1.4, 1))
    _draw_time_line(time_line.subplots(), reports)
    _draw_steps(steps, reports)
    _draw_hbm(hbm, reports)
    canvas.draw()
    rgba = np.asarray(canvas.buffer_rgba())
    pixels: Pixels = np.ascontiguousarray(rgba[:height, :width, :3]).astype(np.float32) / np.float32(255)
    return pixels


def _draw_time_line(axes: Axes, reports: Sequence[RunReport]) -> None:
    rows = _rows(reports)
    end = max((start + (stage.seconds or 0.0) for start, _, stage in rows), default=0.0) or 1.0
    for position, (start, _, stage) in enumerate(rows):
        seconds = stage.seconds or 0.0
        axes.barh(position, seconds, left=start, height=0.72, color=_COLOURS[stage.name])
        label = f" {_duration(stage.seconds)}"
        if stage.compile_cache is not None:
            label += f"  (compile {_duration(stage.compile_seconds)})"
        axes.text(start + seconds, position, label, va="center", fontsize=8, color=_INK, clip_on=False)
    for later_run in _run_starts(reports)[1:-1]:
        axes.axvline(later_run, color=_MUTED, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [label for _, label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, end * 1.2)
    axes.set_xlabel("seconds")
    title = "   ".join(map(_title, reports)) if len(reports) <= 3 else f"{len(reports)} runs"
    _style(axes, title, grid="x")


def _draw_steps(axes: Axes, reports: Sequence[RunReport]) -> None:
    stages = [stage for report in reports for stage in report.stages if len(stage.steps) > 1]
    lines = notable(stages, _MOST_LINES)
    stages = [stage for position, stage in enumerate(stages) if position in lines]
    steady = [step.seconds for stage in stages for step in stage.steps if is_timed(step)]
    top = 1.25 * max(steady, default=0.0) or None
    for stage in stages:
        colour = _COLOURS[stage.name]
        seconds = [step.seconds if is_timed(step) and step.kind != CACHED else np.nan for step in stage.steps]
        median = stage.step_seconds.median if stage.step_seconds else None
        label = f"{_label(stage)}, median {_duration(median)}"
        numbers = range(1, len(seconds) + 1)
        axes.plot(numbers, seconds, color=colour, marker="o", markersize=3, label=label)
        _draw_cached(axes, stage, colour)
        for number, step in zip(numbers, stage.steps, strict=True):
            if step.finite is False:
                axes.plot(number, min(step.seconds, top or step.seconds), "x", color=_CRITICAL, markersize=8)
            if step.compiled:
                _mark_compile(axes, number, step.seconds, top, colour)
    axes.set_ylim(0, top)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _style(axes, "Seconds a step", grid="y")
    if stages:
        low_steps = any(map(count_cached, stages))
        axes.legend(fontsize=8, frameon=False, loc="center right" if low_steps else "lower right")
    else:
        _say_nothing_known(axes)


def _draw_cached(axes: Axes, stage: StageReport, colour: str) -> None:
    """Hollow squares for the steps that a step cache skipped: what they take says nothing of the others."""
    median = step_medians(stage).get(CACHED)
    cached = [
        (number, step.seconds)
        for number, step in enumerate(stage.steps, start=1)
        if step.kind == CACHED and is_timed(step)
    ]
    if cached:
        label = f"{_label(stage)}, cached, median {_duration(median)}"
        axes.plot(
            *zip(*cached, strict=True), "s", color=colour, markerfacecolor="white", markersize=4, label=label
        )


def _mark_compile(axes: Axes, number: int, seconds: float, top: float | None, colour: str) -> None:
    """A hollow triangle, at the upper edge with the seconds beside it where the step is off the scale."""
    off_scale = top is not None and seconds > top
    at = 0.94 * top if top is not None and off_scale else seconds
    axes.plot(number, at, marker="^", color=colour, markerfacecolor="white", markersize=6)
    if off_scale:
        note = f"{_duration(seconds)} with compile"
        where: dict[str, Any] = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(note, (number, at), **where, fontsize=8, color=_MUTED)


def _draw_hbm(axes: Axes, reports: Sequence[RunReport]) -> None:
    chips = _fullest(reports)
    largest = max((use.limit_bytes or use.peak_bytes for use in chips.values()), default=0)
    unit, name = (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")
    positions = range(len(chips))
    width = 0.8 if len(chips) <= 64 else 1.0
    axes.bar(positions, [(use.limit_bytes or 0) / unit for use in chips.values()], color=_SUNKEN, width=width)
    axes.bar(positions, [use.peak_bytes / unit for use in chips.values()], color=_DENOISE, width=width)
    every = max(1, -(-len(chips) // 8))
    axes.set_xticks(positions[::every], list(chips)[::every])
    fullest = max(chips, key=lambda chip: chips[chip].peak_bytes, default=None)
    detail = ""
    if fullest is not None:
        use = chips[fullest]
        limit = "" if use.limit_bytes is None else f" of {use.limit_bytes / unit:.4g}"
        detail = f": {fullest} has {use.peak_bytes / unit:.3g}{limit} {name}"
    axes.set_ylabel(name)
    memory = memory_label(chips)
    _style(axes, f"{memory[0].upper()}{memory[1:]} peak of each chip{detail}", grid="y")
    if not chips:
        _say_nothing_known(axes)


def _rows(reports: Sequence[RunReport]) -> list[tuple[float, str, StageReport]]:
    """Stages with the seconds at which they begin on the time line: the runs lie one after the other.

    What ran within a node follows it. Of a long workflow there are the slowest.
    """
    rows = []
    for report, begins in zip(reports, _run_starts(reports), strict=False):
        shown = notable(report.stages, _MAX_ROWS // len(reports))
        for position, depth in walk(report.stages):
            stage = report.stages[position]
            if position in shown:
                start = begins + stage.started_unix_seconds - report.started_unix_seconds
                rows.append((start, "· " * min(depth, 4) + _label(stage), stage))
    return rows


def _run_starts(reports: Sequence[RunReport]) -> list[float]:
    """Where each run begins, and where the last one ends: a cached node's run may be from hours ago."""
    return list(itertools.accumulate(map(_length, reports), initial=0.0))


def _length(report: RunReport) -> float:
    ends = (s.started_unix_seconds - report.started_unix_seconds + (s.seconds or 0.0) for s in report.stages)
    return max([report.total_seconds or 0.0, *ends])


def _fullest(reports: Sequence[RunReport]) -> dict[str, HbmUsage]:
    """For each chip, by its name, the reading of the stage with the highest peak."""
    chips: dict[str, HbmUsage] = {}
    for report in reports:
        for use in (use for stage in report.stages for use in stage.hbm):
            chip = device_of(report, use.device)
            if chip not in chips or use.peak_bytes > chips[chip].peak_bytes:
                chips[chip] = use
    return chips


def _label(stage: StageReport) -> str:
    return _drawable(stage_label(stage), stage.component or stage.name)


def _drawable(text: str, instead: str) -> str:
    """A user's words as they can be drawn: short, in letters of matplotlib's font, and no formula of it."""
    shown = text if text and text.isascii() else instead
    shown = shown if len(shown) <= _MOST_LETTERS else f"{shown[: _MOST_LETTERS - 3]}..."
    return shown.replace("$", r"\$")


def _title(report: RunReport) -> str:
    name = _drawable(report.name or "", report.pipeline)
    return f"{name} {outcome(report)}, {_duration(report.total_seconds)}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "n/a"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.3g} s"


def _say_nothing_known(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
    axes.text(0.5, 0.5, "n/a", transform=axes.transAxes, ha="center", va="center", color=_MUTED)


def _style(axes: Axes, title: str, *, grid: Literal["x", "y"]) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    axes.tick_params(colors=_MUTED, labelsize=8, length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=_MUTED, fontsize=8)
    axes.grid(axis=grid, color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
