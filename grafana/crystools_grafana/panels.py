"""The panels that the dashboards are made of, and how their queries are written.

A query is PromQL with one abbreviation: `{hosts}`, `{runs}` and `{stages}` stand for the matchers of the
dashboard's variables, and may be followed by others: `{runs,status!="succeeded"}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from crystools_exporters.catalogue import SIMULATED_LABEL

DATASOURCE: Final = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH: Final = 24
"""Columns of Grafana's grid."""

_HOSTS: Final = f'slice=~"$slice",host=~"$host",{SIMULATED_LABEL}=~"$simulated"'
_RUNS: Final = f'{_HOSTS},pipeline=~"$pipeline"'
_MATCHERS: Final = {"hosts": _HOSTS, "runs": _RUNS, "stages": f'{_RUNS},stage=~"$stage"'}

_T = TypeVar("_T")
Panel: TypeAlias = stat.Panel | table.Panel | timeseries.Panel


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel. `legend` names a series by its labels: `{{host}} {{chip}}`."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Column:
    """One query of a table, whose value is a column. The queries of a table share their labels."""

    expr: str
    title: str


def full(expr: str) -> str:
    """The query with the abbreviations written out."""
    return re.sub(r"\{(hosts|runs|stages)\b", lambda found: "{" + _MATCHERS[found[1]], expr)


def quantile(share: float, histogram: str, matchers: str, by: str) -> str:
    """The query for a quantile of a histogram of the catalogue."""
    buckets = f"rate({histogram}_bucket{matchers}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by (le, {by}) ({buckets}))"


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    height: int = 8,
    minimum: float | None = 0,
    maximum: float | None = None,
    stacked: bool = False,
) -> timeseries.Panel:
    """Values over time; `stacked` adds them up as areas, `minimum` and `maximum` are the axis' ends."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(common.VisibilityMode.AUTO)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
        .targets(
            [
                _target(query.expr, reference).legend_format(query.legend)
                for reference, query in _named(queries)
            ]
        )
    )
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    return panel


def number(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 4,
    height: int = 8,
    decimals: int | None = None,
    names_only: bool = False,
) -> stat.Panel:
    """The value now, or over the whole range, in large. `names_only` shows the name of each series."""
    text = common.BigValueTextMode.NAME if names_only else common.BigValueTextMode.VALUE_AND_NAME
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.NONE)
        .text_mode(text)
        .no_value("n/a")
        .targets(
            [
                _target(query.expr, reference).legend_format(query.legend).instant()
                for reference, query in _named(queries)
            ]
        )
    )
    if decimals is not None:
        panel.decimals(decimals)
    return panel


def rows(
    title: str,
    description: str,
    unit: str,
    *columns: Column,
    width: int = 12,
    height: int = 8,
    decimals: int | None = None,
) -> table.Panel:
    """A table of the values now: the labels, then a column a query.

    All columns have one unit: a unit of a column's own would be an override, and the published schema takes
    none of the values that Grafana itself writes there.
    """
    values = ["Value"] if len(columns) == 1 else [f"Value #{reference}" for reference, _ in _named(columns)]
    titles = {value: column.title for value, column in zip(values, columns, strict=True)}
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .no_value("n/a")
        .targets(
            [
                _target(column.expr, reference).format(PromQueryFormat.TABLE).instant()
                for reference, column in _named(columns)
            ]
        )
        .transformations(
            [
                dashboard.DataTransformerConfig("merge", options={}),
                dashboard.DataTransformerConfig(
                    "organize", options={"excludeByName": {"Time": True}, "renameByName": titles}
                ),
            ]
        )
    )
    if decimals is not None:
        panel.decimals(decimals)
    return panel


def up_or_down(panel: Panel) -> Panel:
    """The panel with words in place of 0, 1 and, of a source that is up and idle, 2."""
    words = {"1": "up", "0": "down", "2": "idle"}
    results = {
        value: dashboard.ValueMappingResult(text=text, index=index)
        for index, (value, text) in enumerate(words.items())
    }
    panel.mappings([dashboard.ValueMap(results)])
    return panel


def _target(expr: str, reference: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().datasource(DATASOURCE).expr(full(expr)).ref_id(reference)
    return target.exemplar(True) if "_bucket{" in expr else target


def _named(queries: Sequence[_T]) -> list[tuple[str, _T]]:
    return list(zip("ABCDEFGHIJ", queries, strict=False))
