"""No 500, no traceback and no stuck connection by any input: what a user, a page or a scanner could send.

The examples are the same in every run. What the server logs as an error fails the test, for each 500 does.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crystools_exporters.prometheus import PrometheusExporter
from crystools_exporters.run_log import Found, Kept, RunLog
from crystools_tpu import telemetry
from crystools_tpu.monitor import Monitor
from crystools_tpu.server import PREFIX, Profiling, Served, Server, create_app
from crystools_tpu.sources.base import Reading
from crystools_tpu.telemetry import RunFilter, RunReport

from .conftest import CHIP, HOST, FixedSource

TOKEN: Final = "s3crét"
PATIENCE_SECONDS: Final = 30.0
FEW: Final = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

ODD_TEXT: Final = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\0", "\ud800", "\udce9", "%", "%zz", "../..", "x" * 9000, "9" * 5000, "-1", "latest~1"]
    ),
    st.integers(-(10**30), 10**30).map(str),
)
RAW: Final = st.binary(max_size=30)
ENCODED: Final = st.one_of(
    ODD_TEXT.map(lambda text: quote(text, safe="", errors="surrogatepass")),
    RAW.map(quote_from_bytes),
    st.sampled_from(["%", "%f", "%%", "%00", "%ED%A0%80", "%C3", "+", "a=b", "&", ";", "#"]),
)
HEADERS: Final = [
    "Authorization",
    "Origin",
    "Host",
    "Accept",
    "Accept-Encoding",
    "Range",
    "If-Range",
    "If-None-Match",
    "If-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "Cookie",
    "X-Forwarded-Host",
    "Sec-Fetch-Site",
    "Content-Type",
    "Content-Encoding",
    "Expect",
    "Connection",
    "Upgrade",
    "Sec-WebSocket-Key",
]
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**20, 10**400) | st.floats() | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS: Final = st.sampled_from(["schema", "type", "interval_seconds", "disks", "metrics", "steps"])
MESSAGES: Final = st.one_of(
    st.dictionaries(FIELDS, JSON | st.just("configure"), max_size=4).map(json.dumps).map(str.encode),
    st.dictionaries(FIELDS, JSON, max_size=2)
    .map(lambda fields: {"type": "configure", **fields})
    .map(lambda message: json.dumps(message, ensure_ascii=False).encode(errors="surrogatepass")),
    JSON.map(json.dumps).map(str.encode),
    st.binary(max_size=80),
    st.sampled_from(
        [b"[" * 20_000, b'{"a":' * 9_000, b"9" * 9_000, b"1e999", b"\xff\xfe{\0}\0", b'"\\ud800"']
    ),
)


class OddRuns:
    """The history of other processes' runs: a real one without any, and every report that is put in here."""

    def __init__(self, log: RunLog) -> None:
        self.reports: list[RunReport] = []
        self._log = log

    def page(self, limit: int, before: str | None = None) -> tuple[Sequence[RunReport], Sequence[str]]:
        kept = self._log.read_page(limit, before)
        return [*self.reports[:limit], *kept.reports], kept.unreadable

    def report(self, run_id: str) -> RunReport | None:
        kept = {report.run_id: report for report in self.reports}
        return kept.get(run_id) or self._log.report(run_id)

    def earlier(self, report: RunReport) -> Sequence[RunReport]:
        return self.reports

    def search(self, chosen: RunFilter, limit: int, before: str | None = None) -> Found:
        return self._log.search(chosen, limit, before)

    def attachment(self, run_id: str, kind: str) -> Kept | None:
        return self._log.attachment(run_id, kind)

    def was_made_here(self, report: RunReport) -> bool:
        return self._log.was_made_here(report)

    def alike(self, report: RunReport) -> Sequence[RunReport]:
        return self.reports

    def follow(self, newest: int, told: Callable[[RunReport], None]) -> Callable[[], None]:
        for report in self.reports[:newest]:
            told(report)
        return lambda: None


@dataclasses.dataclass
class Target:
    """The server under fire, and what it has logged that it should not have."""

    address: tuple[str, int]
    kept: OddRuns
    bus: telemetry.Bus
    errors: list[str]

    def send(self, request: bytes) -> bytes:
        """The whole answer; nothing where the server only closes the connection."""
        with socket.create_connection(self.address, timeout=PATIENCE_SECONDS) as client:
            answer = bytearray()
            try:
                client.sendall(request)
                while part := client.recv(2**20):
                    answer += part
            except (ConnectionResetError, BrokenPipeError):
                pass
        return bytes(answer)

    def is_quiet(self) -> None:
        """Fails where the server has logged an error since it was last asked."""
        errors = self.errors[:]
        self.errors.clear()
        assert errors == []

    def ask(self, method: str, target: str, *headers: bytes, body: bytes = b"", token: str = TOKEN) -> int:
        """The status. The answer of the API must be JSON."""
        lines = [
            f"{method} {PREFIX}{target} HTTP/1.1".encode(),
            f"Authorization: Bearer {token}".encode(),
            b"Host: localhost\r\nConnection: close",
            f"Content-Length: {len(body)}".encode(),
            *headers,
        ]
        head, _, content = self.send(b"\r\n".join([*lines, b"", body])).partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), head
        status = int(head.split()[1])
        assert status < 500, head
        self.is_quiet()
        if b"application/json" in head:
            json.loads(content)
        return status


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.texts.append(self.format(record))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    sources = [FixedSource("host", Reading(host=HOST)), FixedSource("tpu", Reading(chips=(CHIP,)))]
    monitor = Monitor(sources, interval_seconds=0.1)
    bus, history = telemetry.Bus(), telemetry.History()
    log = RunLog(tmp_path_factory.mktemp("history"))
    kept = OddRuns(log)
    exporter = PrometheusExporter(monitor, bus=bus)
    profiling = Profiling(telemetry.Profiler(bus), Path(tmp_path_factory.mktemp("profiles")))
    app = create_app(
        Served(
            monitor=monitor,
            history=history,
            bus=bus,
            kept=kept,
            metrics_text=exporter.render,
            profiling=profiling,
            trace=lambda report: report.run_id.encode(errors="replace"),
        ),
        token=TOKEN,
    )
    with telemetry.run("one", bus=bus, history=history):
        pass
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    monitor.start()
    server = Server(app)
    yield Target(server.start(), kept, bus, errors.texts)
    server.stop()
    monitor.stop()
    exporter.close()
    log.close()
    logging.getLogger().removeHandler(errors)
    assert errors.texts == []


@FEW
@example("limit", "9" * 5000)
@given(st.sampled_from(["limit", "before", "a", "b", "token", "key", "text", "pipeline", "status"]), ENCODED)
def test_fields_of_a_query(target: Target, field: str, value: str) -> None:
    for path in ("/api/runs", "/api/compare", "/api/health", "/", "/metrics"):
        assert target.ask("GET", f"{path}?{field}={value}".replace("#", "%23")) in (200, 400, 404)


@FEW
@given(ENCODED)
def test_names_in_a_path(target: Target, name: str) -> None:
    name = name.replace("#", "%23")
    of_run = [
        f"/api/runs/{name}{what}" for what in ("", "/trace", "/result", "/output", "/thumbnail", "/workflow")
    ]
    for path in (*of_run, f"/{name}", f"/api/{name}"):
        assert target.ask("GET", path) in (200, 302, 400, 404)


@FEW
@example("Authorization", b"Bearer \xe9")
@example("Authorization", b"Bearer")
@example("Expect", b"\xe9")
@example("Upgrade", b"\xe9")
@example("Connection", b"\xe9")
@given(
    st.sampled_from(HEADERS),
    st.one_of(
        ODD_TEXT.map(lambda text: text.encode(errors="surrogatepass")),
        RAW,
        st.sampled_from(
            [b"http://[", b"http://a:b", b"bytes=9-1", b"bytes=-", b'W/"', b'"', b"q=;q=nan", b"text/*;q=x"]
        ),
    ),
)
def test_headers(target: Target, name: str, value: bytes) -> None:
    """Once before and once beside our own, for the page and the API."""
    for path in ("/", "/icon.svg", "/comfyui.js", "/api/runs", "/metrics", "/ws"):
        request = f"GET {PREFIX}{path}?token={quote(TOKEN)} HTTP/1.1\r\n{name}: ".encode() + value
        answer = target.send(request + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer[:9] in (b"HTTP/1.1 ", b"HTTP/1.0 ", b""), answer
        assert answer[9:10] != b"5", answer
    target.is_quiet()


@FEW
@given(st.sampled_from([("PUT", "/api/settings"), ("POST", "/api/profile")]), MESSAGES)
def test_bodies(target: Target, endpoint: tuple[str, str], body: bytes) -> None:
    assert target.ask(*endpoint, body=body) in (200, 202, 400, 409)


@FEW
@given(MESSAGES, st.integers(0, 200), st.sampled_from([b"", b"Transfer-Encoding: chunked\r\n"]))
def test_bodies_that_are_cut_off(target: Target, body: bytes, missing: int, chunked: bytes) -> None:
    length = chunked or f"Content-Length: {len(body) + missing}\r\n".encode()
    head = f"PUT {PREFIX}/api/settings?token={quote(TOKEN)} HTTP/1.1\r\nHost: localhost\r\n".encode()
    with socket.create_connection(target.address, timeout=PATIENCE_SECONDS) as client:
        client.sendall(head + length + b"\r\n" + body)
    assert target.ask("GET", "/api/health") == 200


@FEW
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=20).map(lambda path: b"GET /" + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        st.binary(max_size=20).map(lambda line: b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n"),
        st.sampled_from(
            [
                b"GET / HTTP/9.9\r\n\r\n",
                b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET //crystools-tpu/ HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
                b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
                b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\n" + 200 * b"A: b\r\n" + b"\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\nA: " + 9000 * b"b" + b"\r\n\r\n",
                b"GET /" + 9000 * b"a" + b" HTTP/1.1\r\nHost: a\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ]
        ),
    )
)
def test_what_is_no_request(target: Target, data: bytes) -> None:
    with socket.create_connection(target.address, timeout=PATIENCE_SECONDS) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(4096)
    assert answer[9:10] != b"5", answer
    target.is_quiet()


def frame(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2) if size < 2**16 else None
    head = bytes([(0x80 if last else 0) | opcode])
    return head + (length or b"\xff" + size.to_bytes(8)) + bytes(4) + payload


@FEW
@given(
    st.lists(
        st.one_of(
            MESSAGES.map(lambda message: frame(1, message)),
            st.builds(frame, st.integers(0, 15), st.binary(max_size=140), last=st.booleans()),
            st.binary(max_size=40),
            st.just(frame(1, b" " * 70_000)),
            st.just(frame(1, b"\xff")),
        ),
        max_size=3,
    )
)
def test_websocket_messages_and_frames(target: Target, frames: list[bytes]) -> None:
    upgrade = (
        f"GET {PREFIX}/ws?token={quote(TOKEN)} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(target.address, timeout=PATIENCE_SECONDS) as client:
        client.sendall(upgrade.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        try:
            client.sendall(b"".join(frames) + frame(8, b"\x03\xe8"))
            while client.recv(2**16):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
    target.is_quiet()


@FEW
@given(
    run_id=ODD_TEXT,
    pipeline=ODD_TEXT,
    params=st.dictionaries(ODD_TEXT, JSON, max_size=3),
    error=st.none() | ODD_TEXT,
    seconds=st.none() | st.floats(),
)
def test_runs_whose_reports_are_odd(
    target: Target,
    run_id: str,
    pipeline: str,
    params: dict[str, Any],
    error: str | None,
    seconds: float | None,
) -> None:
    with telemetry.run("odd", bus=telemetry.Bus(), history=telemetry.History()) as run:
        pass
    report = dataclasses.replace(
        run.report, run_id=run_id, pipeline=pipeline, params=params, error=error, total_seconds=seconds
    )
    target.kept.reports = [report, dataclasses.replace(run.report, run_id="other")]
    try:
        assert target.ask("GET", "/api/runs") == 200
        name = quote(run_id, safe="", errors="surrogatepass")
        for path in (f"/api/runs/{name}", f"/api/runs/{name}/trace", f"/api/compare?a={name}&b=other"):
            assert target.ask("GET", path) in (200, 400, 404)
    finally:
        target.kept.reports = []
