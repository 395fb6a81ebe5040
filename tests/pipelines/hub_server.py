"""A server on this machine that answers what huggingface_hub asks of the hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import huggingface_hub.constants
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_GATE_SECONDS = 60.0


@dataclass
class Hub:
    """What the server says. `refuse` has a status and headers for whatever path begins so."""

    folder: Path
    name: str = "org/tiny"
    requests: list[str] = field(default_factory=list)
    refuse: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    gate: threading.Event | None = None
    """What the second half of the transformer's weights waits for."""

    def files(self) -> dict[str, Path]:
        """What the repository has, by name."""
        return {
            path.relative_to(self.folder).as_posix(): path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def asked(self, beginning: str) -> list[str]:
        """The requests that begin so, such as `GET /org/tiny/resolve`."""
        return [request for request in self.requests if request.startswith(beginning)]

    def downloaded(self) -> set[str]:
        """The files that were asked for by GET."""
        return {request.split(f"/{COMMIT}/")[-1].split("/main/")[-1] for request in self.asked("GET /org/")}


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path, hub = unquote(self.path.partition("?")[0]), self.hub
        hub.requests.append(f"{self.command} {path}")
        for beginning, (status, headers) in hub.refuse.items():
            if path.startswith(beginning):
                self._send(status, {"Content-Length": "0", **headers})
                return
        if path.startswith(f"/api/models/{hub.name}"):
            self._send_json(_info(hub))
            return
        for revision in ("main", COMMIT):
            name = path.removeprefix(f"/{hub.name}/resolve/{revision}/")
            if name in hub.files():
                self._send_file(hub.files()[name], name, with_body)
                return
        self._send(404, {"X-Error-Code": "RepoNotFound", "Content-Length": "0"})

    def _send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self._send(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_file(self, path: Path, name: str, with_body: bool) -> None:
        content = path.read_bytes()
        about = {"ETag": f'"{_blob(path)}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
        self._send(200, about)
        if not with_body:
            return
        half = len(content) // 2
        self.wfile.write(content[:half])
        if self.hub.gate is not None and name.startswith("transformer/diff"):
            self.wfile.flush()
            self.hub.gate.wait(_GATE_SECONDS)
        self.wfile.write(content[half:])

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def _blob(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _info(hub: Hub) -> dict[str, Any]:
    siblings = [
        {"rfilename": name, "size": path.stat().st_size, "blobId": _blob(path)}
        for name, path in hub.files().items()
    ]
    return {"id": hub.name, "modelId": hub.name, "sha": COMMIT, "siblings": siblings, "tags": []}


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The hub's address, for as long as the block lasts."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on huggingface_hub asks this address, and keeps what it fetches in this folder."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
