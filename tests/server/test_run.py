"""The server in its own thread: it starts, says where, and leaves nothing behind."""

from __future__ import annotations

import gc
import json
import socket
import threading
import urllib.request
from http.client import HTTPConnection

import pytest
from aiohttp import web

from crystools_tpu.server import Server, ServerError, create_app

from .conftest import Bench


def app_for(bench: Bench, token: str | None = None) -> web.Application:
    return create_app(bench.served(), token=token)


def server_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "crystools-tpu-server"]


def test_it_serves_on_a_free_loopback_port_until_stopped(bench: Bench) -> None:
    server = Server(app_for(bench))
    host, port = server.start()
    with urllib.request.urlopen(f"http://{host}:{port}/crystools-tpu/api/health", timeout=20) as answer:
        health = json.load(answer)
    assert host == "127.0.0.1"
    assert (health["host"], health["port"]) == (host, port)

    server.stop()

    assert server_threads() == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port))
    server.stop()


def test_an_idle_connection_does_not_keep_it(bench: Bench) -> None:
    server = Server(app_for(bench))
    connection = HTTPConnection(*server.start(), timeout=20)
    connection.request("GET", "/crystools-tpu/api/health")
    assert connection.getresponse().status == 200
    server.stop()
    assert server_threads() == []
    connection.close()


def test_a_port_in_use_is_one_clear_error(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        wanted = f"port {port} on 127.0.0.1 is in use: choose another, or port 0 for a free one"
        with pytest.raises(ServerError, match=wanted):
            Server(app_for(bench), port=port).start()
    assert server_threads() == []


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_one_clear_error(bench: Bench, port: int) -> None:
    with pytest.raises(ServerError, match=f"port {port} does not exist: choose 1 to 65535, or 0"):
        Server(app_for(bench), port=port).start()


def test_a_host_that_is_not_this_machine_is_one_clear_error(bench: Bench) -> None:
    with pytest.raises(ServerError, match=r"cannot listen on 192\.0\.2\.1 port 0: "):
        Server(app_for(bench, token="secret"), host="192.0.2.1").start()


@pytest.mark.parametrize("host", ["a..b", "x\udce9", 300 * "a", "a\0b"])
def test_a_host_that_cannot_be_is_one_clear_error(bench: Bench, host: str) -> None:
    with pytest.raises(ServerError, match="cannot listen on "):
        Server(app_for(bench, token="secret"), host=host).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1"])
def test_a_host_that_others_can_reach_needs_a_token(bench: Bench, host: str) -> None:
    with pytest.raises(ServerError, match="is reachable from other machines: give a token"):
        Server(app_for(bench), host=host)


def test_with_a_token_it_may_listen_everywhere(bench: Bench) -> None:
    server = Server(app_for(bench, token="secret"), host="0.0.0.0")
    host, port = server.start()
    url = f"http://127.0.0.1:{port}/crystools-tpu/api/health?token=secret"
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.status == 200
    assert host == "0.0.0.0"
    server.stop()


def test_a_connection_that_comes_while_it_stops_is_closed(bench: Bench) -> None:
    """What is left open warns when it is collected, and a warning fails the test."""
    for _ in range(3):
        server = Server(app_for(bench))
        address = server.start()
        clients: list[socket.socket] = []
        stopped = threading.Event()
        thread = threading.Thread(target=_connect_until, args=(stopped, address, clients))
        thread.start()
        while len(clients) < 20:
            stopped.wait(0.001)
        server.stop()
        stopped.set()
        thread.join()
        for client in clients:
            client.close()
    gc.collect()


def _connect_until(stopped: threading.Event, address: tuple[str, int], clients: list[socket.socket]) -> None:
    while not stopped.is_set():
        try:
            clients.append(socket.create_connection(address))
        except OSError:  # nobody listens any more
            return
