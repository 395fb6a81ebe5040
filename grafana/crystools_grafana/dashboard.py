"""A dashboard: its variables, and rows of panels laid out from left to right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders.dashboard import (
    CustomVariable,
    DatasourceVariable,
    QueryVariable,
    Row,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.dashboard import VariableOption

from crystools_grafana.panels import DATASOURCE, Panel

TAG: Final = "crystools-tpu"
Variable = CustomVariable | DatasourceVariable | QueryVariable | TextBoxVariable


def machine_variables(*, one_host: bool = False) -> list[Variable]:
    """Which Prometheus, slices and hosts, and whether simulated machines are shown."""
    return [
        DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        choice("slice", "Slice", "label_values(crystools_tpu_build_info, slice)"),
        choice(
            "host", "Host", 'label_values(crystools_tpu_build_info{slice=~"$slice"}, host)', only_one=one_host
        ),
        CustomVariable("simulated")
        .label("Machines")
        .description("Simulated machines are marked so on every sample")
        .values("all : .*, real : ^$, simulated : .+")
        .current(VariableOption(selected=True, text="all", value=".*")),
    ]


def run_variables() -> list[Variable]:
    """Which pipelines and stages."""
    runs = 'slice=~"$slice",host=~"$host"'
    return [
        choice("pipeline", "Pipeline", f"label_values(crystools_tpu_runs_in_progress{{{runs}}}, pipeline)"),
        choice(
            "stage", "Stage", f"label_values(crystools_tpu_stage_duration_seconds_count{{{runs}}}, stage)"
        ),
    ]


def choice(name: str, label: str, query: str, *, only_one: bool = False) -> QueryVariable:
    """The values of a label, of which any number may be chosen (all at first), or only one."""
    variable = (
        QueryVariable(name)
        .label(label)
        .query(query)
        .definition(query)
        .datasource(DATASOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if only_one:
        return variable
    everything = VariableOption(selected=True, text="All", value="$__all")
    return variable.multi(True).include_all(True).all_value(".*").current(everything)


def text_box(name: str, label: str, description: str, default: str) -> TextBoxVariable:
    """A number that the reader types."""
    option = VariableOption(selected=True, text=default, value=default)
    return (
        TextBoxVariable(name)
        .label(label)
        .description(description)
        .default_value(default)
        .current(option)
        .options([option])
    )


def dashboard(
    uid: str,
    title: str,
    description: str,
    rows: Mapping[str, Sequence[Panel]],
    *,
    variables: Sequence[Variable],
    last: str = "6h",
) -> models.Dashboard:
    """The dashboard, with a row a heading, and ids from 1 in the order of reading."""
    builder = (
        builders.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time(f"now-{last}", "now")
        .refresh("30s")
        .variables(list(variables))
        .link(
            builders.DashboardLink("Crystools TPU")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for heading, panels in rows.items():
        builder.with_row(Row(heading))
        for panel in panels:
            builder.with_panel(panel)
    built = builder.build()
    for number, placed in enumerate(built.panels or (), start=1):
        placed.id_val = number
    return built


def to_json(built: models.Dashboard) -> str:
    """The text of the dashboard's file."""
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
