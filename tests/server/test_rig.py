"""A simulated v6e-8 host behind the whole server: its figures, its loss and its return."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from crystools_exporters.prometheus import PrometheusExporter
from crystools_tpu import telemetry
from crystools_tpu.monitor import Monitor
from crystools_tpu.server import Served, create_app
from crystools_tpu.simulation.machine import Simulation

from .conftest import receive

SIMULATED = ("simulated", "v6e-8")
INTERVALS_ALLOWED = 2
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    with Simulation("v6e-8") as simulation:
        yield simulation


@pytest.fixture
async def client(simulation: Simulation) -> AsyncIterator[TestClient[Any, Any]]:
    monitor = Monitor(simulation.sources(), interval_seconds=0.5, simulated=True)
    bus = telemetry.Bus()
    exporter = PrometheusExporter(monitor, bus=bus, simulated="v6e-8")
    app = create_app(
        Served(
            monitor=monitor,
            history=telemetry.History(),
            bus=bus,
            simulated="v6e-8",
            metrics_text=exporter.render,
        )
    )
    monitor.start()
    async with TestClient(TestServer(app)) as client:
        yield client
    exporter.close()
    monitor.stop()


async def scrape(client: TestClient[Any, Any]) -> Samples:
    """All samples of /metrics, by name without prefix and labels."""
    text = await (await client.get("/metrics")).text()
    return {
        (sample.name.removeprefix("crystools_tpu_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def chip_samples(samples: Samples) -> Samples:
    return {key: value for key, value in samples.items() if key[0].startswith("chip_")}


def source_up(samples: Samples, source: str) -> float | None:
    return samples.get(("source_up", labels_of(source)))


def labels_of(source: str) -> frozenset[tuple[str, str]]:
    return frozenset({("source", source), SIMULATED})


def is_complete(snapshot: dict[str, Any]) -> bool:
    """All eight chips are there, TensorCore (which comes from libtpu's SDK in a child) included."""
    chips = snapshot["chips"]
    return len(chips) == 8 and all(chip["tensorcore_utilization_ratio"] is not None for chip in chips)


async def complete(socket: ClientWebSocketResponse[Any]) -> dict[str, Any]:
    """The first snapshot in which every source has answered."""
    while not is_complete(snapshot := await receive(socket, "snapshot")):
        pass
    return snapshot


async def test_eight_chips_show_the_rigs_exact_figures(
    simulation: Simulation, client: TestClient[Any, Any]
) -> None:
    async with client.ws_connect("/crystools-tpu/ws") as socket:
        snapshot = await complete(socket)
        answer = await (await client.get("/crystools-tpu/api/devices")).json()
        samples = await scrape(client)

    figures = simulation.figures()
    assert figures[0].hbm_used_bytes == 23364370432
    assert snapshot["simulated"] is True
    assert snapshot["chips"] == answer["chips"]
    assert [chip["chip"] for chip in answer["chips"]] == [f"tpu{number}" for number in range(8)]
    for chip, figure in zip(answer["chips"], figures, strict=True):
        expected = {
            "hbm_used_bytes": figure.hbm_used_bytes,
            "hbm_total_bytes": 32 * 1024**3,
            "duty_cycle_ratio": pytest.approx(figure.duty_cycle_percent / 100, abs=1e-12),
            "tensorcore_utilization_ratio": pytest.approx(figure.tensorcore_percent / 100, abs=1e-12),
            "hbm_bandwidth_utilization_ratio": pytest.approx(figure.hbm_bandwidth_percent / 100, abs=1e-12),
        }
        assert {name: chip[name] for name in expected} == expected
        labels = frozenset({("chip", chip["chip"]), SIMULATED})
        assert {name: samples[f"chip_{name}", labels] for name in expected} == expected
    histogram = 2 + 4  # count, sum and four buckets
    assert len(chip_samples(samples)) == 8 * (len(expected) + 1 + histogram)


async def test_a_lost_runtime_takes_its_series_along_and_brings_them_back(
    simulation: Simulation, client: TestClient[Any, Any]
) -> None:
    async with client.ws_connect("/crystools-tpu/ws") as socket:
        before = await complete(socket)
        series = chip_samples(await scrape(client))
        assert source_up(await scrape(client), "tpu") == 1

        simulation.runtime.kill()
        lost = [await receive(socket, "snapshot") for _ in range(INTERVALS_ALLOWED)][-1]
        health = await (await client.get("/crystools-tpu/api/health")).json()
        samples = await scrape(client)

        assert lost["chips"] == []
        assert chip_samples(samples) == {}
        assert lost["attached"] == health["attached"]
        assert lost["attached"]["sentence"] == "8 x v6e, idle: no program uses them"
        assert [(source["source"], source["state"]) for source in health["sources"]] == [
            ("host", "up"),
            ("tpu", "idle"),
            ("libtpu_sdk", "idle"),
        ]
        assert source_up(samples, "tpu") == source_up(samples, "host") == 1
        assert [samples["source_idle", labels_of(name)] for name in ("host", "tpu")] == [0, 1]
        assert samples["chips_attached", frozenset({("kind", "TPU v6e"), SIMULATED})] == 8
        assert lost["host"]["cpu_utilization_ratio"] is not None
        assert lost["host"]["memory_total_bytes"] == before["host"]["memory_total_bytes"]
        assert ("host_memory_used_bytes", frozenset({SIMULATED})) in samples

        await receive(socket, "snapshot")
        simulation.runtime.start()
        back = [await receive(socket, "snapshot") for _ in range(INTERVALS_ALLOWED)][-1]
        samples = await scrape(client)

        assert samples["source_idle", labels_of("tpu")] == 0
        assert back["chips"] == before["chips"]
        assert chip_samples(samples) == series
