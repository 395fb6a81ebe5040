"""A dashboard read as Grafana reads it: each panel's queries, with the variables put in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

EVERYTHING: Final[Mapping[str, str]] = dict.fromkeys(
    ("slice", "host", "simulated", "pipeline", "stage"), ".*"
)
"""The variables that filter, at `All`."""


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of one panel, as the dashboard's file has it."""

    panel: str
    reference: str
    expr: str
    legend: str
    instant: bool


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Its panels in the order of reading, rows left out."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def queries(dashboard: Mapping[str, Any]) -> Iterator[PanelQuery]:
    """The queries of all panels of a dashboard."""
    return (query for panel in panels(dashboard) for query in panel_queries(panel))


def panel_queries(panel: Mapping[str, Any]) -> Iterator[PanelQuery]:
    """The queries of one panel."""
    for target in panel["targets"]:
        yield PanelQuery(
            panel["title"],
            target["refId"],
            target["expr"],
            target.get("legendFormat", ""),
            target.get("instant", False),
        )


def with_values(
    expr: str, values: Mapping[str, str], *, rate_interval_seconds: int, range_seconds: int
) -> str:
    """The query that Prometheus is sent. Raises KeyError for a variable without a value."""
    known = {
        **values,
        "__rate_interval": f"{rate_interval_seconds}s",
        "__range": f"{range_seconds}s",
        "__range_s": str(range_seconds),
    }
    return re.sub(r"\$(\w+)", lambda found: known[found[1]], expr)


def series_name(legend: str, labels: Mapping[str, str]) -> str:
    """The name in the legend; a label that the series lacks is nothing."""
    named = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)
    return " ".join(named.split())
