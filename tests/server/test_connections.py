"""What slow, silent and too many clients cost: themselves, and nobody else."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import re
import resource
import select
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientSession, web

from crystools_tpu.server import Server, create_app, run, security
from crystools_tpu.server.connections import Limits

from .conftest import Bench

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30.0
HEALTH = b"GET /crystools-tpu/api/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
SOON = Limits(head_seconds=0.2, unread_seconds=0.2, watch_seconds=0.02)
LATER = Limits(head_seconds=1.0, watch_seconds=0.02)
"""For tests in which one client is in time."""

Address = tuple[str, int]
Start = Callable[..., Address]


@pytest.fixture
def start(bench: Bench) -> Iterator[Start]:
    """Starts a server with these limits; `large` is a path that answers with 64 MiB."""
    servers: list[Server] = []

    def start_(limits: Limits, **options: Any) -> Address:
        app = create_app(bench.served())
        app.router.add_get("/large", large)
        servers.append(Server(app, limits=limits, **options))
        return servers[-1].start()

    yield start_
    for server in servers:
        server.stop()


async def large(request: web.Request) -> web.Response:
    return web.Response(body=bytes(64 * 2**20))


def connected(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE_SECONDS)


def rest(client: socket.socket) -> bytes:
    """All that still comes, until the server closes; fails where it does not."""
    received = bytearray()
    try:
        while part := client.recv(2**20):
            received += part
    except ConnectionResetError:
        pass
    return bytes(received)


def is_served(address: Address) -> bool:
    connection = HTTPConnection(*address, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", "/crystools-tpu/api/health")
        return connection.getresponse().status == 200
    finally:
        connection.close()


@pytest.mark.parametrize("said", [b"", b"G", HEALTH[:-2], HEALTH[:30]], ids=["nothing", "G", "head", "half"])
def test_a_client_that_never_ends_its_question_is_let_go(start: Start, said: bytes) -> None:
    with connected(start(SOON)) as client:
        client.sendall(said)
        assert rest(client) == b""


def test_a_client_that_drips_is_let_go_however_often_it_says_something(start: Start) -> None:
    with connected(start(SOON)) as client:
        client.settimeout(0.01)
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b"x")
                try:
                    if client.recv(1) == b"":
                        raise ConnectionError
                except TimeoutError:
                    pass


def test_a_client_that_has_asked_may_be_silent_for_longer(start: Start) -> None:
    address = start(LATER)
    connection = HTTPConnection(*address, timeout=PATIENCE_SECONDS)
    for _ in range(2):
        connection.request("GET", "/crystools-tpu/api/health")
        connection.getresponse().read()
        with connected(address) as silent:
            assert rest(silent) == b""
    connection.close()


def test_a_client_that_is_idle_after_its_question_is_let_go(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_IDLE_SECONDS", 0.1)
    with connected(start(Limits())) as client:
        client.sendall(HEALTH)
        assert rest(client).startswith(b"HTTP/1.1 200 OK")


def test_half_a_body_is_answered_and_the_client_let_go(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_SECONDS", 0.1)
    with connected(start(Limits())) as client:
        client.sendall(
            b"PUT /crystools-tpu/api/settings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        )
        head = client.recv(4096)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"body must be here within 0.1 seconds" in head


@pytest.mark.parametrize("path", [b"/large", b"/crystools-tpu/ws"])
def test_a_client_that_does_not_read_is_let_go(start: Start, bench: Bench, path: bytes) -> None:
    """Also one that has a websocket and answers no ping: its connection does not stay for what is unsent."""
    with bench.run(params={str(number): "x" * 2**16 for number in range(256)}):
        pass
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with connected(start(SOON)) as client:
        client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n")
        end = select.poll()
        end.register(client, 0)
        assert end.poll(PATIENCE_SECONDS * 1000), "still connected"


def test_beyond_the_bound_who_waited_longest_goes_and_others_are_served(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    address = start(Limits(connections=4))
    with caplog.at_level(logging.WARNING):
        clients = [connected(address) for _ in range(20)]
        for client in clients[:16]:
            assert rest(client) == b""
        for _ in range(3):
            assert is_served(address)
        clients[-1].sendall(HEALTH)
        assert clients[-1].recv(4096).startswith(b"HTTP/1.1 200 OK")
    for client in clients:
        client.close()
    assert caplog.messages == ["more than 4 connections: those that have waited longest are closed"]


def test_where_all_are_being_answered_a_newcomer_is_refused(start: Start) -> None:
    host, port = start(Limits(connections=2))

    async def scenario() -> None:
        url = f"http://{host}:{port}/crystools-tpu/ws"
        async with ClientSession() as session, session.ws_connect(url) as one, session.ws_connect(url) as two:
            for socket_ in (one, two):
                assert (await socket_.receive_json())["type"] == "hello"
            with pytest.raises(ClientConnectionError):
                await session.ws_connect(url)
            assert (await one.receive_json())["type"] == "snapshot"

    asyncio.run(scenario())


class Exhausted(socket.socket):
    """A listener that has no file handle for the next connections."""

    failures = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@pytest.mark.parametrize("idle", [0, 3])
def test_without_file_handles_there_is_one_line_and_service_as_soon_as_there_are(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, idle: int
) -> None:
    listener: Exhausted | None = None
    listen = run._listen

    def exhausted(host: str, port: int) -> socket.socket:
        nonlocal listener
        opened = listen(host, port)
        listener = Exhausted(opened.family, opened.type, opened.proto, opened.detach())
        return listener

    monkeypatch.setattr(run, "_listen", exhausted)
    monkeypatch.setattr("crystools_tpu.server.connections._RETRY_SECONDS", 0.01)
    address = start(Limits())
    assert listener is not None
    clients = []
    for _ in range(idle):
        client = connected(address)
        client.sendall(HEALTH)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
        clients.append(client)
    listener.failures = 4
    assert is_served(address)
    for client in clients:
        assert rest(client) == b""
        client.close()
    assert caplog.messages == ["a connection cannot be accepted: Too many open files; idle ones are closed"]


def test_with_few_file_handles_many_idle_clients_cost_one_line(tmp_path: Path) -> None:
    """The real command, with the real limit of the operating system."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "pipelines", "exporters"))
    serve = [sys.executable, "-m", "crystools_tpu", "serve", "--port", "0"]
    with subprocess.Popen(
        ["sh", "-c", 'ulimit -n 80; exec "$@"', "sh", *serve],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            port = re.search(r":(\d+)/", process.stdout.readline())
            assert port is not None
            address = ("127.0.0.1", int(port[1]))
            clients = [connected(address) for _ in range(120)]
            assert rest(clients[0]) == b""
            for _ in range(3):
                assert is_served(address)
            for client in clients:
                client.close()
            assert is_served(address)
            process.terminate()
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert errors == "WARNING: more than 40 connections: those that have waited longest are closed\n"


def test_https_has_the_same_bounds(
    start: Start, certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    address = start(LATER, tls=tls)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with connected(address) as silent:
        assert rest(silent) == b""
    with connected(address) as plain:
        plain.sendall(HEALTH)
        rest(plain)
    with connected(address) as plain, trusting.wrap_socket(plain, server_hostname="127.0.0.1") as quiet:
        assert rest(quiet) == b""
    with connected(address) as plain, trusting.wrap_socket(plain, server_hostname="127.0.0.1") as client:
        client.sendall(HEALTH)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert caplog.messages == []


def test_an_https_connection_that_is_open_does_not_keep_the_server(
    bench: Bench, certificate: tuple[Path, Path]
) -> None:
    """Nor does it leave anything open, which would be a warning, and fail the test."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    server = Server(create_app(bench.served()), tls=tls)
    address = server.start()
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with connected(address) as silent, connected(address) as plain:
        with trusting.wrap_socket(plain, server_hostname="127.0.0.1") as client:
            client.sendall(HEALTH)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
            server.stop()
        assert rest(silent) == b""
    gc.collect()


@pytest.mark.parametrize(("handles", "connections"), [(1024, 512), (2**20, 512), (256, 128), (1, 1)])
def test_the_bound_leaves_half_of_the_file_handles(
    monkeypatch: pytest.MonkeyPatch, handles: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (handles, handles))
    assert Limits().most_connections() == connections
