"""Draws what Prometheus answers to a dashboard's queries, laid out as the dashboard is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, MinuteLocator
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from crystools_grafana.queries import PanelQuery, panel_queries, series_name
from tests.rigs.prometheus import Series

CAPTION: Final = (
    "Drawn by matplotlib from a real Prometheus' answers to this dashboard's own queries. Not a screenshot "
    "of Grafana. The chips are simulated, the runs are of tiny models on a CPU."
)
INCHES_PER_COLUMN: Final = 0.72
INCHES_PER_ROW: Final = 0.36
TITLE_INCHES: Final = 0.75
GAP_INCHES: Final = 0.12
GAP_SECONDS: Final = 5.0
MINUTES_FROM: Final = 120.0
DARK, GREY = "#24292e", "#6a737d"
COLOURS: Final = (
    "#2f7ed8", "#e8743b", "#19a979", "#945ecf", "#c0a12b",
    "#d9365e", "#13a4b4", "#6c757d", "#8b5a2b", "#e27fb4",
)  # fmt: skip

plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "axes.edgecolor": "#c8ccd2"})

Ask = Callable[[PanelQuery], list[Series]]


@dataclass(frozen=True)
class Answered:
    """A series under its name in the legend."""

    name: str
    series: Series


def draw(dashboard: Mapping[str, Any], ask: Ask, *, start: float, end: float) -> Figure:
    """The whole dashboard from `start` to `end`, in unix seconds.

    `ask` answers a query as its panel asks it: over that time, or at its end.
    """
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    size = (24 * INCHES_PER_COLUMN, rows * INCHES_PER_ROW + TITLE_INCHES)
    figure = plt.figure(figsize=size, dpi=100, facecolor="#f4f5f7")
    margin = GAP_INCHES / size[0]
    top = 1 - 0.3 / size[1]
    figure.text(margin, top, dashboard["title"], fontsize=14, weight="bold", color=DARK, va="center")
    figure.text(margin, top - 0.26 / size[1], CAPTION, fontsize=8, color=GREY, va="center")
    for panel in dashboard["panels"]:
        place = _place(panel["gridPos"], size)
        if panel["type"] == "row":
            middle = place[1] + place[3] / 2
            figure.text(place[0], middle, panel["title"], fontsize=10, weight="bold", color=DARK, va="center")
            continue
        frame = figure.add_axes(place, facecolor="white")
        axes = _panel(frame, panel, (place[2] * size[0], place[3] * size[1]), ask)
        if axes is not None:
            axes.set_xlim(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))
    return figure


def _place(grid: Mapping[str, int], size: tuple[float, float]) -> tuple[float, float, float, float]:
    """The panel's left, bottom, width and height, as shares of the figure."""
    left = grid["x"] * INCHES_PER_COLUMN + GAP_INCHES / 2
    top = grid["y"] * INCHES_PER_ROW + TITLE_INCHES + GAP_INCHES / 2
    width = grid["w"] * INCHES_PER_COLUMN - GAP_INCHES
    height = grid["h"] * INCHES_PER_ROW - GAP_INCHES
    return left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1]


def _panel(frame: Axes, panel: Mapping[str, Any], size: tuple[float, float], ask: Ask) -> Axes | None:
    """Draws one panel of this width and height, in inches; its axes where it shows values over time."""
    width, height = size
    frame.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
    frame.text(0.1 / width, 1 - 0.17 / height, panel["title"], weight="bold", color=DARK, va="center")
    answers = [(query, ask(query)) for query in panel_queries(panel)]
    named = [Answered(series_name(query.legend, s.labels), s) for query, found in answers for s in found]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if not named:
        frame.text(0.5, 0.5, "n/a", ha="center", va="center", fontsize=14, color=GREY)
    elif panel["type"] == "table":
        titles = panel["transformations"][1]["options"]["renameByName"]
        _table(frame, height, unit, list(titles.values()), [series for _, series in answers])
    elif panel["type"] == "stat":
        _stat(frame, panel, unit, named)
    else:
        axes = frame.inset_axes((0.66 / width, 0.76 / height, 1 - 0.8 / width, 1 - 1.14 / height))
        _lines(axes, panel, unit, named, width)
        return axes
    return None


def _lines(axes: Axes, panel: Mapping[str, Any], unit: str, named: Sequence[Answered], width: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    if defaults["custom"].get("stacking", {}).get("mode") == "normal":
        _stack(axes, named)
    else:
        named = sorted(named, key=lambda answer: -answer.series.value)  # the legend names the highest
        for index, answer in enumerate(named):
            axes.plot(*_curve(answer.series), linewidth=1.2, color=COLOURS[index % len(COLOURS)])
    low, high = axes.get_ylim()
    low = defaults.get("min", low)
    if not any(value for answer in named for _, value in answer.series.points):
        high = 1.0
    high = defaults.get("max", high)
    axes.set_ylim(low, high)
    axes.set_yticks(_ticks(low, high, unit))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, unit)))
    axes.xaxis.set_major_locator(MinuteLocator())
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.tick_params(labelsize=7, colors=GREY, length=0)
    axes.set_axisbelow(True)
    axes.grid(color="#e8eaed", linewidth=0.8)
    axes.spines[:].set_visible(False)
    _legend(axes, [answer.name for answer in named], width)


def _ticks(low: float, high: float, unit: str) -> list[float]:
    """Round numbers of the unit that the values are written in."""
    scale = 1.0
    if unit == "bytes":
        scale = 1024.0 ** int(math.log(max(high, 1), 1024))
    elif unit == "s" and high >= MINUTES_FROM:
        scale = 60.0
    values = MaxNLocator(4).tick_values(low / scale, high / scale)
    return [value * scale for value in values if low <= value * scale <= high]


def _curve(series: Series) -> tuple[list[datetime], list[float]]:
    """Its times and values, with a gap where it had none."""
    points: list[tuple[float, float]] = []
    for at, value in series.points:
        if points and at - points[-1][0] > GAP_SECONDS:
            points.append((points[-1][0] + 1, math.nan))
        points.append((at, value))
    return [datetime.fromtimestamp(at, UTC) for at, _ in points], [value for _, value in points]


def _stack(axes: Axes, named: Sequence[Answered]) -> None:
    times = sorted({at for answer in named for at, _ in answer.series.points})
    values = [dict(answer.series.points) for answer in named]
    axes.stackplot(
        [datetime.fromtimestamp(at, UTC) for at in times],
        [[value.get(at, 0.0) for at in times] for value in values],
        colors=[COLOURS[index % len(COLOURS)] for index in range(len(named))],
        alpha=0.65,
        linewidth=0,
    )


def _legend(axes: Axes, names: Sequence[str], width: float) -> None:
    """Beneath, as many as fit into three lines, and how many more there are."""
    columns = max(1, int(width / (max(map(len, names)) * 0.066 + 0.4)))
    shown = list(names) if len(names) <= 3 * columns else list(names[: 3 * columns - 1])
    colours = itertools.cycle(COLOURS)
    handles = [plt.Line2D([], [], color=next(colours), linewidth=3) for _ in shown]
    if len(names) > len(shown):
        handles.append(plt.Line2D([], [], linestyle=""))
        shown.append(f"and {len(names) - len(shown)} more")
    axes.legend(
        handles, shown, loc="upper left", bbox_to_anchor=(-0.5 / (width - 0.8), -0.14),
        ncols=min(columns, len(shown)), frameon=False, fontsize=6.5, handlelength=1, columnspacing=1,
        labelspacing=0.3, borderpad=0,
    )  # fmt: skip


def _stat(frame: Axes, panel: Mapping[str, Any], unit: str, named: Sequence[Answered]) -> None:
    options = panel["options"]
    words = {
        float(value): result["text"]
        for mapping in panel["fieldConfig"]["defaults"].get("mappings", ())
        for value, result in mapping["options"].items()
    }
    decimals = panel["fieldConfig"]["defaults"].get("decimals")
    for index, answer in enumerate(named):
        y = 0.84 - (index + 0.5) * 0.8 / len(named)
        value = words.get(answer.series.value, with_unit(answer.series.value, unit, decimals))
        if options["textMode"] == "name":
            frame.text(0.5, y, answer.name, ha="center", va="center", fontsize=13, color=DARK)
            continue
        size = min(20, 34 / len(named) + 6)
        frame.text(0.5, y, value, ha="center", va="bottom", fontsize=size, color="#1f6fbf")
        frame.text(0.5, y, answer.name, ha="center", va="top", fontsize=7, color=GREY)


def _table(
    frame: Axes, height: float, unit: str, titles: Sequence[str], columns: Sequence[Sequence[Series]]
) -> None:
    """The labels of each series, then the value of each query for it."""
    cells = [{tuple(sorted(_labels(s).items())): s.value for s in column} for column in columns]
    keys = sorted({key for column in cells for key in column})
    names = sorted({name for key in keys for name, _ in key})
    text = [
        [dict(key).get(name, "") for name in names]
        + [with_unit(column[key], unit) if key in column else "n/a" for column in cells]
        for key in keys
    ]
    heads = [*names, *titles]
    widths = [max(len(line[index]) for line in [heads, *text]) + 3 for index in range(len(heads))]
    shown = min((len(text) + 1) * 0.24 / height, 1 - 0.36 / height)
    table = frame.table(
        text,
        colLabels=heads,
        colWidths=[width / sum(widths) for width in widths],
        bbox=(0.02, 1 - 0.32 / height - shown, 0.96, shown),
        edges="horizontal",
        cellLoc="left",
        colLoc="left",
    )
    table.auto_set_font_size(False)
    for (line, _), cell in table.get_celld().items():
        cell.set(edgecolor="#e1e4e8")
        cell.get_text().set(fontsize=7, weight="bold" if line == 0 else "normal")
        cell.PAD = 0.02


def _labels(series: Series) -> dict[str, str]:
    return {name: value for name, value in series.labels.items() if name != "__name__"}


def with_unit(value: float, unit: str, decimals: int | None = None) -> str:
    """As Grafana writes it, about."""
    if unit == "percentunit":
        return f"{value * 100:.{decimals or 0}f}%"
    if unit == "celsius":
        return f"{value:.0f} °C"
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    if unit == "flops":
        return _scaled(value, 1000, ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s"))
    if unit == "s":
        if value == 0 or abs(value) >= MINUTES_FROM:
            return f"{value / 60:.3g} min" if value else "0 s"
        return f"{value:.3g} s" if abs(value) >= 1 else f"{value * 1000:.3g} ms"
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 1000 else _scaled(value, 1000, ("", "k", "M", "G"))


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    for unit in units:
        if abs(value) < base or unit == units[-1]:
            return f"{value:.3g} {unit}".strip()
        value /= base
    raise AssertionError
