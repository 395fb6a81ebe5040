"""Grafana's dashboards, generated: `python grafana/generate.py` writes `grafana/dashboards`."""

from crystools_grafana import chips, cost, fleet, pipelines
from crystools_grafana.dashboard import to_json


def generated() -> dict[str, str]:
    """The text of each dashboard's file, by its name."""
    dashboards = [module.dashboard() for module in (pipelines, chips, fleet, cost)]
    return {f"{dashboard.uid}.json": to_json(dashboard) for dashboard in dashboards}
