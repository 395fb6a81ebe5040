"""Texts that have no form in UTF-8, or that move cursors, on the websocket and in the JSON API."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from crystools_tpu.sources.base import DiskReading, HostReading, Reading
from tests.server.conftest import PATIENCE_SECONDS, Bench, FixedSource, Serve, WatchedMonitor, receive

ODD = os.fsdecode(b"caf\xe9") + " \ud83d \x00 \x1b[2J"
SAFE = "caf\\udce9 \\ud83d \\x00 \\x1b[2J"


@pytest.fixture
def bench() -> Any:
    host = HostReading(0.25, 3, 4, (DiskReading(ODD, 10, 20),))
    monitor = WatchedMonitor([FixedSource("host", Reading(host=host))], interval_seconds=0.1)
    monitor.start()
    yield Bench(monitor)
    monitor.stop()


def odd_run(bench: Bench) -> str:
    with pytest.raises(OSError, match="caf"), bench.run(ODD, model_id=ODD, params={ODD: ODD}) as run:
        with run.stage("load", component=ODD):
            raise OSError(ODD)
    return run.run_id


async def test_they_arrive_by_websocket_and_by_the_api(
    bench: Bench, serve: Serve, validate: Callable[[str, Any], None]
) -> None:
    client = await serve()
    run_id = odd_run(bench)
    async with client.ws_connect("/crystools-tpu/ws") as socket:
        hello = await socket.receive_json(timeout=PATIENCE_SECONDS)
        validate("HelloMessage", hello)
        assert hello["runs"][0]["pipeline"] == SAFE
        snapshot = await receive(socket, "snapshot")
        assert snapshot["host"]["disks"][0]["used_bytes"] == 10
        odd_run(bench)
        finished = await receive(socket, "run_finished")
        assert finished["report"]["error"] == f"OSError: {SAFE}"
    for path in ("runs", f"runs/{run_id}", f"compare?a={run_id}&b={run_id}", "devices"):
        async with client.get(f"/crystools-tpu/api/{path}") as answer:
            assert answer.status == 200, path
            await answer.json()
