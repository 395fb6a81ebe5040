"""Panels and rules against a real Prometheus that scrapes a real panel, a real run and a small fleet."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from crystools_exporters.catalogue import CATALOGUE
from crystools_grafana.queries import EVERYTHING, queries, with_values
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.run import generate
from crystools_pipelines.runtime import residency
from crystools_tpu import telemetry
from crystools_tpu.cli.serve import panel
from crystools_tpu.telemetry import Status
from tests.rigs.prometheus import POLL_SECONDS, RunningPrometheus, Series, running_prometheus
from tests.rigs.workflow_run import STAGES, events_of_node

from .fleet import (
    GRAFANA,
    GpuSource,
    Host,
    Recorder,
    gpu_host,
    lose_a_chip_and_idle,
    repeat,
    simulated_host,
    with_bandwidth,
    write_configuration,
)

PATIENCE_SECONDS: Final = 60.0
REQUEST: Final = Flux2Request("a cat", height=32, width=32, num_inference_steps=3)
ALONE, FIRST, SECOND, GPU = (f"127.0.0.{number}" for number in (1, 2, 3, 4))
DASHBOARDS: Final = {
    path.stem: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")
}
RULES: Final = [
    rule
    for path in (GRAFANA / "rules").glob("*.yml")
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS: Final = {rule["alert"]: rule["expr"] for rule in RULES if "alert" in rule}


@dataclass
class Scene:
    """A panel alone with real runs, a slice of two hosts, and a host with a GPU, all scraped."""

    prometheus: RunningPrometheus
    second: Host
    gpu: GpuSource
    run: Recorder

    def ask(self, expr: str, **values: str) -> list[Series]:
        """What a dashboard would be answered."""
        known = {**EVERYTHING, "price": "2.5", **values}
        return self.prometheus.query(with_values(expr, known, rate_interval_seconds=300, range_seconds=600))

    def firing(self, alert: str) -> set[str]:
        """The hosts for which an alert's expression holds now."""
        return {series.labels.get("host", "") for series in self.prometheus.query(ALERTS[alert])}

    def wait_for(self, expr: str) -> None:
        self.prometheus.wait_for(expr, seconds=PATIENCE_SECONDS)

    def wait_until_firing(self, alert: str, *hosts: str) -> None:
        self.prometheus.wait_for(
            ALERTS[alert],
            seconds=PATIENCE_SECONDS,
            until=lambda answer: {series.labels["host"] for series in answer} == set(hosts),
        )


def programs() -> tuple[str, str]:
    found = shutil.which("prometheus"), shutil.which("promtool")
    if found[0] is None or found[1] is None:
        pytest.skip("prometheus is not installed (Debian package): the queries are NOT tried on a real one")
    return found[0], found[1]


@pytest.fixture(scope="module")
def scene(tiny_flux2: Path, compile_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    prometheus_program, promtool = programs()
    folder = tmp_path_factory.mktemp("prometheus")
    write_last_week(promtool, folder)
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(panel(simulate="v6e-8"))
        first = stack.enter_context(simulated_host(FIRST, "v6e-4"))
        second = stack.enter_context(simulated_host(SECOND, "v6e-4"))
        gpu = GpuSource()
        third = stack.enter_context(gpu_host(GPU, gpu))
        slices = {"slice-a": [first, second], "": [third]}
        config = write_configuration(folder, alone=f"{ALONE}:{shown.port}", slices=slices)
        prometheus = stack.enter_context(
            running_prometheus(config, folder / "data", program=prometheus_program)
        )
        scene = Scene(prometheus, second, gpu, Recorder())
        scene.wait_for("sum(up) == 4")
        with scene.run.recording(telemetry.bus):
            generate(REQUEST, checkpoint=tiny_flux2, devices=1, out=folder / "cat.png")
            residency.free_all()
        scene.run.events += events_of_node("77aa88bb", 1, STAGES[1])
        for number in (1, 2):  # a rate is made of two
            for host in (first, second):
                repeat(scene.run.events, host)
            repeat(with_bandwidth(scene.run.events), third)
            scene.wait_for(f"count(crystools_tpu_runs_total == {number}) == 4")
            if number == 1:
                generate(REQUEST, checkpoint=tiny_flux2, devices=1, out=folder / "cat.png")
        repeat(with_bandwidth(scene.run.events), third, status=Status.FAILED)
        scene.wait_for('crystools_tpu_runs_total{status="failed"} offset 1s')
        scene.wait_for(f'crystools_tpu_chip_tensorcore_utilization_ratio{{host="{ALONE}"}}')
        scene.wait_for("ALERTS")
        yield scene


def write_last_week(promtool: str, folder: Path) -> None:
    """A week of a better MFU than this machine's can be, whatever its peak is measured to be, as blocks."""
    labels = f'host="{ALONE}",pipeline="flux.2",stage="denoise",simulated="v6e-8"'
    now = int(time.time())
    times = range(now - 6 * 86400, now - 7200, 1800)
    name = "host_stage:crystools_tpu_stage_mfu_ratio:active"
    lines = [f"# TYPE {name} gauge", *(f"{name}{{{labels}}} 100 {at}" for at in times), "# EOF", ""]
    (folder / "week.om").write_text("\n".join(lines))
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", folder / "week.om", folder / "data"],
        check=True,
        capture_output=True,
        timeout=60,
    )


def without_data(scene: Scene, dashboard: Mapping[str, Any], **values: str) -> set[str]:
    """The panels with a query that has no answer."""
    return {query.panel for query in queries(dashboard) if not scene.ask(query.expr, **values)}


def holds(condition: Callable[[], bool]) -> bool:
    """Whether it comes true: on a busy machine a source may miss its deadline, and be back at once."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(POLL_SECONDS)
    return True


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_every_panels_query_returns_data(scene: Scene, name: str) -> None:
    assert holds(lambda: not without_data(scene, DASHBOARDS[name])), without_data(scene, DASHBOARDS[name])


def test_a_host_of_tpus_has_all_but_a_temperature(scene: Scene) -> None:
    chips = DASHBOARDS["crystools-tpu-chips"]
    assert holds(lambda: without_data(scene, chips, host=ALONE) == {"Temperature"})


def test_every_metric_of_the_catalogue_is_scraped(scene: Scene) -> None:
    every = 'last_over_time({__name__=~"crystools_tpu_.*"}[10m])'
    names = {series.labels["__name__"] for series in scene.prometheus.query(every)}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in names} == {
        metric.name for metric in CATALOGUE
    }


def test_every_variable_has_values_to_choose_from(scene: Scene) -> None:
    found = {}
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
                assert match is not None
                found[match[2]] = {series.labels.get(match[2], "") for series in scene.ask(match[1])}
    assert found["host"] == {ALONE, FIRST, SECOND, GPU}
    assert found["slice"] == {"slice-a", ""}
    assert found["pipeline"] == {"flux.2"}
    assert {"denoise", "vae_decode"} <= found["stage"]


def test_real_and_simulated_machines_are_told_apart(scene: Scene) -> None:
    hosts = 'crystools_tpu_build_info{simulated=~"$simulated"}'
    assert {series.labels["host"] for series in scene.ask(hosts, simulated="^$")} == {GPU}
    assert {series.labels["host"] for series in scene.ask(hosts, simulated=".+")} == {ALONE, FIRST, SECOND}


@pytest.mark.parametrize("record", [rule["record"] for rule in RULES if "record" in rule])
def test_every_recorded_series_is_recorded_and_its_expression_returns_data(scene: Scene, record: str) -> None:
    (expr,) = (rule["expr"] for rule in RULES if rule.get("record") == record)
    assert holds(lambda: bool(scene.ask(expr) and scene.ask(record)))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_series_that_an_alert_looks_at_is_there(scene: Scene, alert: str) -> None:
    scene.prometheus.query(ALERTS[alert])
    series = set(re.findall(r"(?:\w+:)?(?:crystools_tpu_\w+|\bup)(?::\w+)?", ALERTS[alert]))
    assert series
    assert holds(lambda: all(scene.ask(name) for name in series))


def test_a_healthy_fleet_has_no_alert_but_the_week_that_was_better(scene: Scene) -> None:
    def firing() -> set[str]:
        return {alert for alert in ALERTS if scene.firing(alert)}

    assert holds(lambda: firing() == {"CrystoolsTpuMfuFell"}), firing()
    scene.wait_for('ALERTS{alertname="CrystoolsTpuMfuFell",alertstate="pending"}')
    assert scene.firing("CrystoolsTpuMfuFell") == {ALONE}


def test_one_host_slow_idle_and_a_chip_short_is_shown_as_that_host(scene: Scene) -> None:
    """And then its runtime hangs, and then it does not answer; each is shown by its own alert."""
    second = scene.second
    assert second.simulation is not None
    lose_a_chip_and_idle(second.simulation)
    for _ in range(4):
        repeat(scene.run.events, second, step_seconds=10.0)
    scene.wait_until_firing("CrystoolsTpuHostStepsSlow", SECOND)
    scene.wait_until_firing("CrystoolsTpuHostIdle", SECOND)
    scene.wait_until_firing("CrystoolsTpuChipLost", SECOND)
    assert holds(lambda: not any(without_data(scene, dashboard) for dashboard in DASHBOARDS.values()))
    fleet = {query.panel: query.expr for query in queries(DASHBOARDS["crystools-tpu-fleet"])}
    slow = {series.labels["host"]: series.value for series in scene.ask(fleet["Step time against the slice"])}
    assert slow[FIRST] < 1 < slow[SECOND]

    second.simulation.runtime.hang()
    scene.gpu.broken = True
    scene.wait_until_firing("CrystoolsTpuSourceDown", SECOND, GPU)
    scene.prometheus.wait_for(
        with_values(fleet["Sources down"], EVERYTHING, rate_interval_seconds=300, range_seconds=600),
        seconds=PATIENCE_SECONDS,
        until=lambda answer: (
            {s.labels["host"]: s.value >= 1 for s in answer}
            == {ALONE: False, FIRST: False, SECOND: True, GPU: True}
        ),
    )

    second.server.stop()
    scene.wait_until_firing("CrystoolsTpuTargetDown", SECOND)
    scene.wait_for(f'ALERTS{{alertname="CrystoolsTpuTargetDown",host="{SECOND}"}}')
