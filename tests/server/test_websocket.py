"""The websocket: hello, snapshots at each client's rate, events to all, and what a slow client costs."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestClient

from crystools_tpu import __version__
from crystools_tpu.server import websocket
from crystools_tpu.server.websocket import MAX_FRAMES
from crystools_tpu.server.websocket import Client as Connection
from crystools_tpu.telemetry import ProfileChanged, RunStarted

from .conftest import PATIENCE_SECONDS, Bench, Serve, receive

WS = "/crystools-tpu/ws"
NO_SNAPSHOTS = {"type": "configure", "interval_seconds": 0}
Client: TypeAlias = "TestClient[Any, Any]"
Socket: TypeAlias = "ClientWebSocketResponse[Any]"
Validate = Callable[[str, Any], None]


async def echo(socket: Socket) -> None:
    """Returns once the server has handled all that was sent before."""
    await socket.send_json({"type": "echo"})
    await receive(socket, "error")


async def test_hello_comes_first_with_the_newest_twenty_runs(
    bench: Bench, serve: Serve, validate: Validate
) -> None:
    for number in range(21):
        with bench.run(f"pipeline-{number}"):
            pass
    client = await serve(simulated="v6e-8")
    async with client.ws_connect(WS) as socket:
        hello = await socket.receive_json(timeout=PATIENCE_SECONDS)

    validate("HelloMessage", hello)
    assert (hello["type"], hello["version"], hello["simulated"]) == ("hello", __version__, "v6e-8")
    assert hello["settings"] == {"interval_seconds": 0.1, "disks": None, "price_per_chip_hour": None}
    assert [run["pipeline"] for run in hello["runs"]] == [f"pipeline-{n}" for n in range(20, 0, -1)]


async def test_snapshots_follow(client: Client, validate: Validate) -> None:
    async with client.ws_connect(WS) as socket:
        first = await receive(socket, "snapshot")
        second = await receive(socket, "snapshot")
    validate("SnapshotMessage", first)
    assert first["chips"][0]["hbm_used_bytes"] == 5
    assert second["time_unix_seconds"] > first["time_unix_seconds"]


async def test_a_run_is_told_as_it_happens(bench: Bench, client: Client, validate: Validate) -> None:
    async with client.ws_connect(WS) as socket:
        await socket.send_json(NO_SNAPSHOTS)
        await echo(socket)
        with bench.run() as run, run.stage("denoise", steps=1) as stage:
            stage.step(None)
        messages = [await socket.receive_json(timeout=PATIENCE_SECONDS) for _ in range(5)]

    for message, name in zip(
        messages, ["RunStarted", "StageStarted", "StepFinished", "StageFinished", "RunFinished"], strict=True
    ):
        validate(f"{name}Message", message)
    assert messages[2]["steps_total"] == 1
    assert messages[4]["report"]["run_id"] == run.run_id


async def test_events_reach_every_client_also_those_without_snapshots(bench: Bench, client: Client) -> None:
    async with client.ws_connect(WS) as first, client.ws_connect(WS) as second:
        await second.send_json(NO_SNAPSHOTS)
        await echo(second)
        with bench.run() as run:
            pass
        for socket in (first, second):
            assert (await receive(socket, "run_finished"))["report"]["run_id"] == run.run_id


async def test_events_from_another_thread_arrive(bench: Bench, client: Client) -> None:
    def work() -> None:
        with bench.run("threaded"):
            pass

    async with client.ws_connect(WS) as socket:
        await receive(socket, "hello")
        await asyncio.to_thread(work)
        assert (await receive(socket, "run_finished"))["report"]["pipeline"] == "threaded"


async def test_the_monitor_samples_only_while_a_client_wants_snapshots(bench: Bench, client: Client) -> None:
    assert bench.monitor.subscriptions == 0
    async with client.ws_connect(WS) as first, client.ws_connect(WS) as second:
        await receive(first, "snapshot")
        await receive(second, "snapshot")
        assert bench.monitor.subscriptions == 1
        assert (await (await client.get("/crystools-tpu/api/health")).json())["subscribers"] == 2

        await first.send_json(NO_SNAPSHOTS)
        await echo(first)
        assert bench.monitor.subscriptions == 1
        await second.send_json(NO_SNAPSHOTS)
        await echo(second)
        assert bench.monitor.subscriptions == 0
        assert (await (await client.get("/crystools-tpu/api/health")).json())["subscribers"] == 0

        await second.send_json({"type": "configure", "interval_seconds": 0.1})
        await receive(second, "snapshot")
        assert bench.monitor.subscriptions == 1
    await gone(bench)


async def gone(bench: Bench) -> None:
    """The server notices a client's leave soon after the client left."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while bench.monitor.subscriptions:
            await asyncio.sleep(0.001)


async def test_a_client_that_vanishes_ends_the_sampling(bench: Bench, client: Client) -> None:
    socket = await client.ws_connect(WS)
    await receive(socket, "snapshot")
    assert socket._response.connection is not None
    assert socket._response.connection.transport is not None
    socket._response.connection.transport.abort()
    await gone(bench)


async def test_one_clients_rate_is_its_own(bench: Bench, client: Client) -> None:
    async with client.ws_connect(WS) as fast, client.ws_connect(WS) as slow:
        await slow.send_json({"type": "configure", "interval_seconds": 60})
        await echo(slow)
        assert bench.monitor.interval_seconds == 0.1
        await receive(fast, "snapshot")

        await fast.send_json({"type": "configure", "interval_seconds": 30})
        await echo(fast)
        assert bench.monitor.interval_seconds == 30.0
        async with client.ws_connect(WS) as third:
            assert (await receive(third, "hello"))["settings"]["interval_seconds"] == 0.1
            assert bench.monitor.interval_seconds == 0.1


@pytest.mark.parametrize(
    ("interval", "sampled_every", "sent"),
    [
        (0.5, 0.5, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]),
        (1.0, 0.5, [0.0, 1.0, 2.0, 3.0]),
        (0.75, 0.5, [0.0, 0.5, 1.5, 2.0, 3.0]),
        (3.0, 0.5, [0.0, 3.0]),
    ],
)
async def test_a_client_takes_the_samples_nearest_to_its_rate(
    interval: float, sampled_every: float, sent: list[float]
) -> None:
    connection = Connection(web.WebSocketResponse())
    samples = [number * sampled_every for number in range(7)]
    assert [at for at in samples if connection.takes(at, interval, sampled_every / 2)] == sent


async def test_late_samples_do_not_halve_the_rate() -> None:
    connection = Connection(web.WebSocketResponse())
    samples = [0.0, 0.49, 1.02, 1.5, 1.98, 2.51]
    assert [at for at in samples if connection.takes(at, 0.5, 0.25)] == samples


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
async def test_a_clock_that_jumps_does_not_stop_the_snapshots(jump: float) -> None:
    connection = Connection(web.WebSocketResponse())
    samples = [5000.0, 5001.0, 5002.0 + jump, 5003.0 + jump]
    assert [at for at in samples if connection.takes(at, 1.0, 0.5)] == samples


async def test_a_client_gets_only_the_metrics_it_chose(client: Client, validate: Validate) -> None:
    async with client.ws_connect(WS) as chooser, client.ws_connect(WS) as other:
        await chooser.send_json({"type": "configure", "metrics": ["duty_cycle_ratio", "memory_used_bytes"]})
        await echo(chooser)
        chosen = await receive(chooser, "snapshot")
        everything = await receive(other, "snapshot")

    validate("SnapshotMessage", chosen)
    assert chosen["chips"] == [{"chip": "tpu0", "kind": "v6e", "duty_cycle_ratio": 0.75}]
    assert chosen["host"] == {"memory_used_bytes": 3}
    assert len(everything["chips"][0]) == 8
    assert len(everything["host"]) == 7


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "body"),
        ("[]", "body"),
        ('{"type": "subscribe"}', "type"),
        ('{"type": "configure", "interval_seconds": 0.5, "metrics": ["mfu"]}', "metrics"),
        ('{"type": "configure", "interval_seconds": -1, "metrics": null}', "interval_seconds"),
        ('{"type": "configure", "interval_seconds": NaN}', "body"),
        ('{"type": "configure", "colour": "red"}', "colour"),
    ],
)
async def test_a_wrong_message_is_answered_by_field_and_the_connection_lives_on(
    client: Client, validate: Validate, text: str, field: str
) -> None:
    async with client.ws_connect(WS) as socket:
        await socket.send_str(text)
        error = await receive(socket, "error")
        validate("WireErrorMessage", error)
        assert error["field"] == field
        assert error["message"].startswith(field)
        await receive(socket, "snapshot")


async def test_a_binary_message_is_answered_too(client: Client) -> None:
    async with client.ws_connect(WS) as socket:
        await socket.send_bytes(b"{}")
        assert (await receive(socket, "error"))["message"] == "body must be text, not binary"


async def test_a_message_over_64_kib_ends_the_connection_and_no_other(client: Client) -> None:
    async with client.ws_connect(WS) as large, client.ws_connect(WS) as other:
        await large.send_str(" " * (64 * 1024 + 1))
        while (message := await large.receive(timeout=PATIENCE_SECONDS)).type is WSMsgType.TEXT:
            pass
        assert (message.type, large.close_code) == (WSMsgType.CLOSE, 1009)
        await receive(other, "snapshot")


async def test_a_client_that_does_not_read_loses_its_oldest_frames_and_delays_nobody(
    bench: Bench, client: Client
) -> None:
    with bench.run() as run:
        report = run.report
    reports = [dataclasses.replace(report, run_id=str(n), error=128 * 1024 * "x") for n in range(480)]
    async with client.ws_connect(WS) as reader, client.ws_connect(WS) as sleeper:
        for socket in (reader, sleeper):
            await receive(socket, "hello")
            await socket.send_json(NO_SNAPSHOTS)
        for event in map(RunStarted, reports):
            bench.bus.publish(event)
            received = await receive(reader, "run_started")
            assert received["report"]["run_id"] == event.report.run_id

        seen = [int((await receive(sleeper, "run_started"))["report"]["run_id"])]
        while seen[-1] < 479:
            seen.append(int((await receive(sleeper, "run_started"))["report"]["run_id"]))

    assert seen == sorted(set(seen))
    assert seen[-MAX_FRAMES:] == list(range(480 - MAX_FRAMES, 480))
    assert len(seen) < 480


async def test_a_client_that_neither_reads_nor_answers_is_let_go_with_what_is_unsent(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a server that is not ours: this one has none of our bounds."""
    monkeypatch.setattr(websocket, "_HEARTBEAT_SECONDS", 0.1)
    with bench.run(params={"prompt": 2**24 * "x"}):
        pass
    client = await serve()
    assert client.server.handler is not None
    with socket.create_connection((client.host, client.port)) as silent:
        silent.sendall(
            f"GET {WS} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not client.server.handler.connections:
                await asyncio.sleep(0.001)
            while client.server.handler.connections:
                await asyncio.sleep(0.001)


async def test_a_client_that_does_not_read_does_not_keep_the_server_from_stopping(
    bench: Bench, serve: Serve
) -> None:
    client = await serve()
    with bench.run() as run:
        event = RunStarted(dataclasses.replace(run.report, error=1024 * 1024 * "x"))
    async with client.ws_connect(WS) as sleeper:
        await receive(sleeper, "hello")
        for _ in range(32):
            bench.bus.publish(event)
        await client.get("/crystools-tpu/api/health")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await client.server.close()


async def test_the_server_says_goodbye(client: Client) -> None:
    async with client.ws_connect(WS) as socket:
        await receive(socket, "hello")
        closing = asyncio.create_task(client.server.close())
        while (message := await socket.receive(timeout=PATIENCE_SECONDS)).type is WSMsgType.TEXT:
            pass
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
        await closing


async def test_an_event_that_cannot_be_sent_costs_no_other(
    bench: Bench, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.ws_connect(WS) as socket:
        await receive(socket, "hello")
        for _ in range(2):
            circular: Any = []
            circular.append(circular)
            bench.bus.publish(ProfileChanged(capture=circular))
        with bench.run("after"):
            pass
        assert (await receive(socket, "run_started"))["report"]["pipeline"] == "after"
    assert [message.partition(":")[0] for message in caplog.messages] == ["profile_changed could not be sent"]
