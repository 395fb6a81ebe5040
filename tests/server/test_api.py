"""The JSON API: each answer against its schema, with absolute values."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from crystools_tpu import __version__
from crystools_tpu.server import mount
from crystools_tpu.sources.base import ChipReading, Reading, SourceError
from crystools_tpu.telemetry import RunReport

from .conftest import Bench, FixedSource, Serve, receive

Validate = Callable[[str, Any], None]
Client: TypeAlias = "TestClient[Any, Any]"


async def get(client: Client, path: str) -> Any:
    response = await client.get(f"/crystools-tpu{path}")
    assert response.status == 200, await response.text()
    return json.loads(await response.text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


async def test_devices_is_one_snapshot(client: Client, validate: Validate) -> None:
    snapshot = await get(client, "/api/devices")

    validate("SnapshotMessage", snapshot)
    assert snapshot["schema"] == 1
    assert snapshot["type"] == "snapshot"
    assert snapshot["simulated"] is False
    assert snapshot["chips"] == [
        {
            "chip": "tpu0",
            "kind": "v6e",
            "hbm_used_bytes": 5,
            "hbm_total_bytes": 8,
            "duty_cycle_ratio": 0.75,
            "tensorcore_utilization_ratio": None,
            "hbm_bandwidth_utilization_ratio": None,
            "temperature_celsius": None,
        }
    ]
    assert snapshot["host"] == {
        "cpu_utilization_ratio": 0.25,
        "memory_used_bytes": 3,
        "memory_total_bytes": 4,
        "disks": [
            {"mount": "/", "used_bytes": 10, "total_bytes": 20},
            {"mount": "/data", "used_bytes": 1, "total_bytes": 2},
        ],
        "cpu_count": 0.5,
        "machine_cpu_count": 8,
        "machine_memory_bytes": 6,
    }
    assert [(source["source"], source["up"]) for source in snapshot["sources"]] == [
        ("host", True),
        ("tpu", True),
    ]


async def test_a_reading_that_is_no_number_is_null(bench: Bench, serve: Serve) -> None:
    reading = Reading(chips=(ChipReading("tpu0", duty_cycle_ratio=float("nan")),))
    bench.monitor = type(bench.monitor)([FixedSource("tpu", reading)])
    client = await serve()
    assert (await get(client, "/api/devices"))["chips"][0]["duty_cycle_ratio"] is None
    bench.monitor.stop()


async def test_health_says_where_and_how_the_server_stands(
    bench: Bench, serve: Serve, validate: Validate
) -> None:
    seconds = iter([100.0, 142.5])
    client = await serve(simulated="v6e-8", clock=lambda: next(seconds))
    await get(client, "/api/devices")

    health = await get(client, "/api/health")

    validate("HealthMessage", health)
    sources = health.pop("sources")
    assert health == {
        "schema": 1,
        "version": __version__,
        "host": "127.0.0.1",
        "port": client.port,
        "uptime_seconds": 42.5,
        "simulated": "v6e-8",
        "subscribers": 0,
        "samples_total": 1,
        "attached": None,
    }
    assert [source["source"] for source in sources] == ["host", "tpu"]


async def test_a_source_that_fails_is_down_and_the_others_go_on(bench: Bench, serve: Serve) -> None:
    bench.monitor = type(bench.monitor)(
        [FixedSource("tpu", SourceError("the runtime is gone")), FixedSource("nvml", Reading())]
    )
    client = await serve()
    tpu, nvml = (await get(client, "/api/devices"))["sources"]
    assert (tpu["up"], tpu["error"], tpu["errors_total"]) == (False, "the runtime is gone", 1)
    assert nvml["up"] is True
    bench.monitor.stop()


async def test_settings_are_read_and_replaced(bench: Bench, client: Client, validate: Validate) -> None:
    assert await get(client, "/api/settings") == {
        "schema": 1,
        "interval_seconds": 0.1,
        "disks": None,
        "price_per_chip_hour": None,
    }

    answer = await client.put("/crystools-tpu/api/settings", json={"interval_seconds": 2, "disks": ["/data"]})

    assert answer.status == 200
    changed = await answer.json()
    validate("SettingsMessage", changed)
    assert changed == {
        "schema": 1,
        "interval_seconds": 2.0,
        "disks": ["/data"],
        "price_per_chip_hour": None,
    }
    assert await get(client, "/api/settings") == changed
    assert bench.monitor.interval_seconds == 2.0
    disks = (await get(client, "/api/devices"))["host"]["disks"]
    assert [disk["mount"] for disk in disks] == ["/data"]
    assert (await client.put("/crystools-tpu/api/settings", json=changed)).status == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"disks": ["/"], "interval_seconds": 0}, "interval_seconds"),
        ({"interval_seconds": 2, "disks": ["/etc"]}, "disks"),
        ({"interval_seconds": 2, "disks": ["/"], "width": 60}, "width"),
        ([2], "body"),
    ],
)
async def test_one_wrong_setting_changes_none(
    client: Client, validate: Validate, body: object, field: str
) -> None:
    before = await get(client, "/api/settings")

    answer = await client.put("/crystools-tpu/api/settings", json=body)

    assert answer.status == 400
    refused = await answer.json()
    validate("RefusalMessage", refused)
    assert refused["error"]["field"] == field
    assert await get(client, "/api/settings") == before


async def test_runs_are_listed_newest_first(bench: Bench, client: Client, validate: Validate) -> None:
    with bench.run("first") as first, first.stage("load"):
        pass
    with bench.run("second") as second:
        runs = await get(client, "/api/runs")

    validate("RunsPageMessage", runs)
    assert [run["pipeline"] for run in runs["runs"]] == ["second", "first"]
    assert [run["status"] for run in runs["runs"]] == ["running", "succeeded"]
    report = await get(client, f"/api/runs/{first.run_id}")
    validate("RunReportMessage", report)
    assert [stage["name"] for stage in report["stages"]] == ["load"]
    assert (await get(client, f"/api/runs/{second.run_id}"))["status"] == "succeeded"


@dataclasses.dataclass
class Kept:
    """A history of earlier processes."""

    reports: tuple[RunReport, ...]
    unreadable: tuple[str, ...] = ()

    def page(self, limit: int, before: str | None = None) -> tuple[tuple[RunReport, ...], tuple[str, ...]]:
        ids = [run.run_id for run in self.reports]
        after = ids.index(before) + 1 if before in ids else 0 if before is None else len(ids)
        return self.reports[after : after + limit], self.unreadable

    def report(self, run_id: str) -> RunReport | None:
        return next((run for run in self.reports if run.run_id == run_id), None)

    def earlier(self, report: RunReport) -> tuple[RunReport, ...]:
        return self.reports

    def alike(self, report: RunReport) -> tuple[RunReport, ...]:
        return self.reports

    def follow(self, newest: int, told: Callable[[RunReport], None]) -> Callable[[], None]:
        for report in self.reports[:newest]:
            told(report)
        return lambda: None


async def test_runs_of_earlier_processes_follow_page_by_page(
    bench: Bench, serve: Serve, validate: Validate
) -> None:
    with bench.run("now") as run:
        pass
    old = [
        dataclasses.replace(run.report, run_id=f"old{n}", pipeline=f"old{n}", started_unix_seconds=100.0 - n)
        for n in range(5)
    ]
    # The history has this process's runs too, as they were a moment ago.
    stale = dataclasses.replace(run.report, pipeline="stale")
    client = await serve(kept=Kept((stale, *old)))
    page = await get(client, "/api/runs?limit=3")
    validate("RunsPageMessage", page)
    assert ([run["pipeline"] for run in page["runs"]], page["more"]) == (["now", "old0", "old1"], True)
    page = await get(client, "/api/runs?limit=3&before=old1")
    assert ([run["pipeline"] for run in page["runs"]], page["more"]) == (["old2", "old3", "old4"], False)
    assert (await get(client, "/api/runs/old4"))["pipeline"] == "old4"


async def test_kept_runs_that_cannot_be_read_are_named(serve: Serve, validate: Validate) -> None:
    client = await serve(kept=Kept((), unreadable=("broken", "of another version")))
    page = await get(client, "/api/runs")
    validate("RunsPageMessage", page)
    assert (page["runs"], page["more"]) == ([], False)
    assert page["unreadable"] == ["broken", "of another version"]


async def test_a_comparison_says_how_both_runs_ended_and_what_cannot_be_compared(
    bench: Bench, client: Client, validate: Validate
) -> None:
    with bench.run("first") as a:
        pass
    with pytest.raises(ValueError, match="too large"), bench.run("second") as b:
        raise ValueError("too large")
    comparison = await get(client, f"/api/compare?a={a.run_id}&b={b.run_id}")
    validate("ComparisonMessage", comparison)
    assert (comparison["a_status"], comparison["b_status"]) == ("succeeded", "failed")
    assert comparison["incomparable"] == [
        "B failed (ValueError: too large)",
        "different pipelines: A first, B second",
    ]


@pytest.mark.parametrize("limit", ["0", "101", "many", "-1"])
async def test_a_page_is_of_one_to_a_hundred_runs(client: Client, validate: Validate, limit: str) -> None:
    answer = await client.get(f"/crystools-tpu/api/runs?limit={limit}")
    assert answer.status == 400
    refused = await answer.json()
    validate("RefusalMessage", refused)
    assert refused["error"] == {"field": "limit", "message": "limit must be a number from 1 to 100"}


async def test_two_runs_are_compared(bench: Bench, client: Client, validate: Validate) -> None:
    reports = []
    for _ in range(2):
        with bench.run() as run, run.stage("denoise", steps=1) as stage:
            stage.step(None)
        reports.append(run)
    a, b = reports
    comparison = await get(client, f"/api/compare?a={a.run_id}&b={b.run_id}")
    validate("ComparisonMessage", comparison)
    assert (comparison["a"], comparison["b"]) == (a.run_id, b.run_id)
    assert [stage["name"] for stage in comparison["stages"]] == ["denoise"]


async def test_a_run_is_explained(bench: Bench, serve: Serve, validate: Validate) -> None:
    with bench.run() as run, run.stage("denoise", steps=1) as stage:
        stage.step(None)
    before = dataclasses.replace(run.report, run_id="before", started_unix_seconds=0.0)
    client = await serve(kept=Kept((before,)))
    told = await get(client, f"/api/runs/{run.run_id}/explanation")
    validate("ExplanationMessage", told)
    assert (told["run_id"], told["alike"], told["verdict"]) == (run.run_id, 1, "same")
    assert told["sentence"].startswith("As fast as the last run like it: ")
    first = await get(client, "/api/runs/before/explanation")
    assert (first["alike"], first["verdict"]) == (0, None)
    assert (await client.get("/crystools-tpu/api/runs/nobody/explanation")).status == 404


@pytest.mark.parametrize(("query", "field"), [("", "a"), ("?a={known}&b=nobody", "b")])
async def test_what_cannot_be_compared_is_named(
    bench: Bench, client: Client, validate: Validate, query: str, field: str
) -> None:
    with bench.run() as known:
        pass
    answer = await client.get("/crystools-tpu/api/compare" + query.format(known=known.run_id))
    assert answer.status == 404
    refused = await answer.json()
    validate("RefusalMessage", refused)
    assert refused["error"] == {"field": field, "message": f"{field} is none of the runs remembered"}


async def test_a_parameter_that_json_lacks_is_shown_as_text(bench: Bench, client: Client) -> None:
    with bench.run(params={"image": Path("cat.png"), "strength": float("inf")}):
        pass
    assert (await get(client, "/api/runs"))["runs"][0]["params"] == {"image": "cat.png", "strength": None}


@pytest.mark.parametrize("run_id", ["nobody", "..%2f..%2fetc%2fpasswd"])
async def test_an_unknown_run_is_not_found(client: Client, validate: Validate, run_id: str) -> None:
    answer = await client.get(f"/crystools-tpu/api/runs/{run_id}")
    assert answer.status == 404
    if answer.content_type == "application/json":
        validate("RefusalMessage", await answer.json())


async def test_metrics_are_rendered_off_the_event_loop_as_the_request_accepts_them(serve: Serve) -> None:
    threads: list[threading.Thread] = []
    asked: list[str] = []

    def render(accept: str) -> tuple[bytes, str]:
        threads.append(threading.current_thread())
        asked.append(accept)
        return b"up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    client = await serve(metrics_text=render)
    for path in ("/metrics", "/crystools-tpu/metrics"):
        answer = await client.get(path, headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        assert await answer.read() == b"up 1\n"
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.headers["Vary"] == "Accept"
    assert asked == ["application/openmetrics-text;version=1.0.0"] * 2
    assert threading.main_thread() not in threads


async def test_without_a_renderer_there_are_no_metrics(client: Client) -> None:
    assert (await client.get("/crystools-tpu/metrics")).status == 404


PREFIXES = ("/crystools-tpu", "/api/crystools-tpu")


@pytest.fixture
async def mounted(bench: Bench) -> AsyncIterator[Client]:
    """A client of another application, in which the panel answers at two prefixes."""
    outer = web.Application()
    mount(outer, PREFIXES, bench.served())
    async with TestClient(TestServer(outer)) as client:
        yield client


async def test_it_can_be_mounted_in_another_application(mounted: Client) -> None:
    assert (await get(mounted, "/api/devices"))["chips"][0]["chip"] == "tpu0"
    assert (await mounted.get("/metrics")).status == 404
    proxied = {"Host": "studio.example", "Origin": "https://studio.example"}
    assert (await mounted.get("/crystools-tpu/api/health", headers=proxied)).status == 200
    async with mounted.ws_connect("/crystools-tpu/ws") as socket:
        assert (await receive(socket, "hello"))["version"] == __version__


async def test_mounted_it_has_one_set_of_settings_and_clients_at_all_its_prefixes(mounted: Client) -> None:
    await mounted.put("/crystools-tpu/api/settings", json={"interval_seconds": 0.25})
    async with mounted.ws_connect("/api/crystools-tpu/ws") as socket:
        assert (await receive(socket, "hello"))["settings"]["interval_seconds"] == 0.25
        assert (await get(mounted, "/api/health"))["subscribers"] == 1


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_mounted_the_folder_is_found_without_its_slash_behind_any_proxy(
    mounted: Client, prefix: str
) -> None:
    answer = await mounted.get(prefix, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "crystools-tpu/")


@pytest.mark.parametrize(
    ("allowed", "status"),
    [(None, 403), ("https://other.example", 403), ("https://app.example", 200), ("*", 200)],
)
async def test_mounted_another_origin_is_refused_unless_the_user_allowed_it(
    bench: Bench, allowed: str | None, status: int
) -> None:
    outer = web.Application()
    mount(outer, PREFIXES, bench.served(), allowed_origin=allowed)
    async with TestClient(TestServer(outer)) as client:
        answer = await client.get("/crystools-tpu/api/health", headers={"Origin": "https://app.example"})
        assert answer.status == status
