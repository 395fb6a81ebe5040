"""The committed dashboards: as the program makes them, as Grafana's schema allows, and as we ask it."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from crystools_exporters.catalogue import CATALOGUE, MetricSpec
from crystools_grafana import generated
from crystools_grafana.queries import panel_queries, panels, queries

from .conftest import SCHEMA

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")}

every_dashboard = pytest.mark.parametrize("name", sorted(DASHBOARDS))


def samples_of(metric: MetricSpec) -> set[str]:
    """The names under which a metric's samples are asked for."""
    if metric.type == "histogram":
        return {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.name}


def rules() -> list[dict[str, Any]]:
    files = (yaml.safe_load(path.read_text()) for path in (GRAFANA / "rules").glob("*.yml"))
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def test_the_committed_files_are_what_the_program_makes() -> None:
    committed = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
    assert committed == generated(), "run: python grafana/generate.py"


@pytest.mark.grafana_schema
@every_dashboard
def test_it_passes_grafanas_schema(name: str) -> None:
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(DASHBOARDS[name])


def test_each_has_a_uid_a_title_and_a_description_of_its_own() -> None:
    for field in ("uid", "title", "description"):
        values = [dashboard[field] for dashboard in DASHBOARDS.values()]
        assert len(set(values)) == len(values) == 4
        assert all(values)


@every_dashboard
def test_it_asks_which_prometheus_slice_host_and_kind_of_machine(name: str) -> None:
    variables = {variable["name"] for variable in DASHBOARDS[name]["templating"]["list"]}
    assert variables >= {"datasource", "slice", "host", "simulated"}
    asked = {name for query in queries(DASHBOARDS[name]) for name in re.findall(r"\$([a-z]\w*)", query.expr)}
    assert asked == variables - {"datasource"}
    for panel in panels(DASHBOARDS[name]):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


@every_dashboard
def test_every_panel_has_a_title_a_description_a_unit_and_named_series(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        if panel["type"] != "table":
            for query in panel_queries(panel):  # a machine in no slice, and real, lacks these labels
                assert re.sub(r"\{\{(slice|simulated)\}\}", "", query.legend).strip(), panel["title"]


@every_dashboard
def test_ids_are_unique_and_no_panel_covers_another(name: str) -> None:
    everything = DASHBOARDS[name]["panels"]
    ids = [panel["id"] for panel in everything]
    assert ids == list(range(1, len(ids) + 1))
    for one, other in combinations([panel["gridPos"] for panel in everything], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in everything)


@every_dashboard
def test_windows_follow_the_scrape_interval_or_the_whole_range(name: str) -> None:
    """What changes over time looks back $__rate_interval; a number of the whole range looks back $__range."""
    for query in queries(DASHBOARDS[name]):
        windows = set(re.findall(r"\[(.*?)\]", query.expr))
        assert windows <= {"$__range" if query.instant else "$__rate_interval"}, query


@every_dashboard
def test_simulated_machines_are_never_added_to_real_ones(name: str) -> None:
    for query in queries(DASHBOARDS[name]):
        if not re.search(r"\bup\{", query.expr):  # of the target: Prometheus does not know what answers
            assert all("simulated" in by for by in re.findall(r"by \((.*?)\)", query.expr)), query
            assert not re.search(r"\b(sum|max|min|avg|count) \(", query.expr), query


def named_in(text: str) -> set[str]:
    """The samples that a query or a page asks for; recorded series have colons and are none."""
    return set(re.findall(r"(?<!:)\bcrystools_tpu_\w+(?!:|\w)", text))


def test_catalogue_and_dashboards_and_rules_name_exactly_the_same_metrics() -> None:
    exprs = [query.expr for dashboard in DASHBOARDS.values() for query in queries(dashboard)]
    named = named_in("\n".join([*exprs, *(rule["expr"] for rule in rules())]))
    known = {sample: metric.name for metric in CATALOGUE for sample in samples_of(metric)}
    assert named <= set(known)
    assert {known[name] for name in named} == {metric.name for metric in CATALOGUE}


def test_the_pages_name_no_metric_that_there_is_not() -> None:
    known = {sample for metric in CATALOGUE for sample in samples_of(metric)}
    for page in [ROOT / "docs/grafana.md", *(ROOT / "docs/runbooks").glob("*.md")]:
        assert named_in(page.read_text()) <= known, page.name


def test_recorded_series_are_those_that_are_asked_for() -> None:
    exprs = [query.expr for dashboard in DASHBOARDS.values() for query in queries(dashboard)]
    exprs += [rule["expr"] for rule in rules()]
    asked = {name for expr in exprs for name in re.findall(r"\b\w+:crystools_tpu_\w+:\w+", expr)}
    assert asked == {rule["record"] for rule in rules() if "record" in rule}


def test_the_dashboards_choose_among_labels_that_exist() -> None:
    labels = {label for metric in CATALOGUE for label in metric.labels} | {"host", "slice"}
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                assert re.search(r", (\w+)\)$", variable["query"])[1] in labels  # type: ignore[index]
