"""A server of the test's own on a free port, with a real monitor over sources that say what they are told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import jsonschema
import pytest
from aiohttp import ClientWebSocketResponse
from aiohttp.test_utils import TestClient, TestServer
from referencing import Registry, Resource

import crystools_tpu
from crystools_tpu import telemetry
from crystools_tpu.monitor import Monitor, Snapshot
from crystools_tpu.server import Served, create_app
from crystools_tpu.sources.base import ChipReading, DiskReading, HostReading, Reading

PACKAGE = Path(crystools_tpu.__file__).parent
PATIENCE_SECONDS = 20.0

CHIP = ChipReading("tpu0", "v6e", hbm_used_bytes=5, hbm_total_bytes=8, duty_cycle_ratio=0.75)
HOST = HostReading(0.25, 3, 4, (DiskReading("/", 10, 20), DiskReading("/data", 1, 2)), 0.5, 8, 6)


@dataclass
class FixedSource:
    """Answers every read with `answer`, or raises it."""

    name: str
    answer: Reading | Exception

    def read(self) -> Reading:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        pass


class WatchedMonitor(Monitor):
    """A monitor that says how many subscriptions are open."""

    subscriptions = 0

    def subscribe(self, callback: Callable[[Snapshot], None]) -> Callable[[], None]:
        unsubscribe = super().subscribe(callback)
        self.subscriptions += 1

        def counted() -> None:
            unsubscribe()
            self.subscriptions -= 1

        return counted


@dataclass
class Bench:
    """What a server is made of: nothing is shared with other tests."""

    monitor: WatchedMonitor
    bus: telemetry.Bus = field(default_factory=telemetry.Bus)
    history: telemetry.History = field(default_factory=telemetry.History)

    def served(self, **more: Any) -> Served:
        return Served(monitor=self.monitor, history=self.history, bus=self.bus, **more)

    def run(self, pipeline: str = "wan2.1-t2v", **options: Any) -> AbstractContextManager[telemetry.Run]:
        return telemetry.run(pipeline, bus=self.bus, history=self.history, **options)


class Serve(Protocol):
    def __call__(self, **options: Any) -> Awaitable[TestClient[Any, Any]]: ...


@pytest.fixture
def bench() -> Iterator[Bench]:
    sources = [FixedSource("host", Reading(host=HOST)), FixedSource("tpu", Reading(chips=(CHIP,)))]
    monitor = WatchedMonitor(sources, interval_seconds=0.1)
    monitor.start()
    yield Bench(monitor)
    monitor.stop()


@pytest.fixture
async def serve(bench: Bench) -> AsyncIterator[Serve]:
    """Starts a server with these fields of `Served` and options of `create_app`, and a client for it."""
    names = {field.name for field in fields(Served)}
    clients: list[TestClient[Any, Any]] = []

    async def start(**options: Any) -> TestClient[Any, Any]:
        served = bench.served(**{name: options.pop(name) for name in names & set(options)})
        app = create_app(served, **options)
        client = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def client(serve: Serve) -> TestClient[Any, Any]:
    """A client of a server with no options."""
    return await serve()


@pytest.fixture(scope="session")
def validate() -> Callable[[str, Any], None]:
    """`validate("HelloMessage", message)` against the committed schemas."""
    wire = json.loads((PACKAGE / "telemetry/schema/wire.schema.json").read_text())
    server = json.loads((PACKAGE / "server/schema/server.schema.json").read_text())
    registry = Registry().with_resources(
        (name, Resource.from_contents(schema))
        for name, schema in (("wire.schema.json", wire), ("server.schema.json", server))
    )

    def check(name: str, message: Any) -> None:
        file = "server" if name in server["$defs"] else "wire"
        schema = {"$ref": f"{file}.schema.json#/$defs/{name}"}
        jsonschema.Draft202012Validator(schema, registry=registry).validate(message)

    return check


async def receive(socket: ClientWebSocketResponse[Any], type_: str) -> dict[str, Any]:
    """The next message of this type; others are passed over."""
    while True:
        message: dict[str, Any] = await socket.receive_json(timeout=PATIENCE_SECONDS)
        if message["type"] == type_:
            return message
