"""The page behind a real nginx: it connects wherever ComfyUI's own does, and another site's page nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from playwright.sync_api import Browser, Page, expect

from crystools_tpu.monitor import Monitor
from crystools_tpu.server import PREFIX, mount
from crystools_tpu.telemetry.events import CaptureStatus
from tests.rigs.ports import free_port
from tests.web.comfyui_rule import comfyuis_rule
from tests.web.nginx import NGINX, proxying
from tests.web.scenes import Scene

DOCS: Final = Path(__file__).parents[2] / "docs"
FENCE: Final = re.compile(r"^```nginx\n(.*?)^```", re.MULTILINE | re.DOTALL)
USER: Final = {"username": "ann", "password": "s3cret"}

UPGRADE: Final = (
    "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
)
SHAPES: Final = {
    "its own host and port": "proxy_set_header Host $http_host;",
    "its host without the port": "proxy_set_header Host $host;",
    "an upstream's name": "",
    "a name of the provider's": "proxy_set_header Host 100.65.0.3:60012;",
}

CONNECT: Final = """url => new Promise(resolve => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve(true);
    socket.onerror = () => resolve(false);
})"""
READ: Final = "url => fetch(url).then(answer => answer.text(), () => null)"
PROFILE: Final = """async base => {
    const { ServerApi } = await import(base + "client.js");
    return new ServerApi(base).profile(0).catch(refusal => refusal.message);
}"""
POST: Final = """url => fetch(url, {method: "POST", mode: "no-cors", body: '{"steps": 1}'}).then(() => 0)"""


class ComfyUI(Scene):
    """A server with ComfyUI's rule and its `/ws`, and the panel in it."""

    @property
    def port(self) -> int:
        return self._port

    def application(self, monitor: Monitor) -> web.Application:
        comfy = web.Application(middlewares=[comfyuis_rule])
        prefixes = [PREFIX, f"/api{PREFIX}"]
        mount(comfy, prefixes, self.served(monitor))
        comfy.router.add_get("/ws", _comfyuis_websocket)
        return comfy


async def _comfyuis_websocket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for _ in socket:
        pass
    return socket


def block(port: int, body: str) -> str:
    return f"server {{ listen 127.0.0.1:{port}; {body} }}\n"


@pytest.fixture(scope="module", autouse=True)
def _nginx() -> None:
    if NGINX is None:
        pytest.skip("SKIPPED: no nginx; nothing is tested behind a proxy (apt-get install nginx-light)")


@dataclass
class Proxied:
    """ComfyUI behind one nginx: the address that each shape of proxy has, and another site's page."""

    scene: ComfyUI
    urls: dict[str, str]
    stranger: str


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("nginx")
    scene = ComfyUI()
    scene.profiles = tmp_path_factory.mktemp("profiles")
    scene.start()
    ports = {shape: free_port() for shape in SHAPES}
    stranger = free_port()
    servers = f"upstream backend {{ server 127.0.0.1:{scene.port}; }}\n" + "".join(
        block(port, f"location / {{ proxy_pass http://backend; {UPGRADE} {SHAPES[shape]} }}")
        for shape, port in ports.items()
    )
    servers += block(
        stranger, 'default_type text/html; location / { return 200 "<title>another site</title>"; }'
    )
    with proxying(servers, stranger, folder):
        urls = {shape: f"http://127.0.0.1:{port}" for shape, port in ports.items()}
        yield Proxied(scene, urls, f"http://localhost:{stranger}/")
    scene.stop()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(ignore_https_errors=True, http_credentials=USER)  # type: ignore[arg-type]
    yield context.new_page()
    context.close()


def is_live(page: Page) -> None:
    expect(page.locator("crystools-header #state")).to_have_text("Live")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_panel_connects_wherever_comfyuis_own_websocket_does(
    proxied: Proxied, page: Page, shape: str
) -> None:
    page.goto(f"{proxied.urls[shape]}{PREFIX}/")
    is_live(page)
    assert page.evaluate(CONNECT, proxied.urls[shape].replace("http", "ws") + "/ws") is True
    assert page.evaluate(PROFILE, page.url).startswith("steps must be")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_page_of_another_site_hears_and_changes_nothing(proxied: Proxied, page: Page, shape: str) -> None:
    page.goto(proxied.stranger)
    for prefix in (PREFIX, f"/api{PREFIX}"):
        url = f"{proxied.urls[shape]}{prefix}"
        assert page.evaluate(CONNECT, f"{url.replace('http', 'ws')}/ws") is False
        assert page.evaluate(READ, f"{url}/api/key") is None
        page.evaluate(POST, f"{url}/api/profile")
    assert proxied.scene.profiler.capture.status is CaptureStatus.IDLE


def documented(name: str, number: int, listen: int, backend: int, folder: Path) -> str:
    """A configuration of a document, with the test's own ports and files."""
    fences: list[str] = FENCE.findall((DOCS / name).read_text())
    text = re.sub(r"listen (?:80|443)\b", f"listen 127.0.0.1:{listen}", fences[number])
    text = re.sub(r"http://127\.0\.0\.1:\d+", f"http://127.0.0.1:{backend}", text)
    return text.replace("/etc/nginx", str(folder))


@pytest.fixture
def files(certificate: tuple[Path, Path], tmp_path: Path) -> Path:
    """The files that the documented configurations name."""
    for name in ("comfy", "tpu"):
        (tmp_path / f"{name}.pem").symlink_to(certificate[0])
        (tmp_path / f"{name}.key").symlink_to(certificate[1])
    (tmp_path / "tpu.users").write_text(f"{USER['username']}:{{PLAIN}}{USER['password']}\n")
    return tmp_path


@pytest.mark.parametrize(("number", "scheme", "path"), [(0, "http", "/"), (1, "https", "/comfy/")])
def test_what_the_document_gives_for_comfyui_works(
    proxied: Proxied, page: Page, files: Path, number: int, scheme: str, path: str
) -> None:
    port = free_port()
    with proxying(documented("comfyui.md", number, port, proxied.scene.port, files), port, files):
        page.goto(f"{scheme}://127.0.0.1:{port}{path}crystools-tpu")
        is_live(page)
        websocket = f"{scheme}://127.0.0.1:{port}{path}ws".replace("http", "ws")
        assert page.evaluate(CONNECT, websocket) is True


@pytest.mark.parametrize(
    ("number", "token", "scheme", "path"),
    [(0, "a&b/+%", "https", "/monitor/?token=a%26b%2F%2B%25"), (1, None, "http", "/")],
    ids=["token", "login"],
)
def test_what_the_document_gives_for_serve_works(
    page: Page, files: Path, number: int, token: str | None, scheme: str, path: str
) -> None:
    scene = Scene(token=token)
    scene.start()
    backend = urlsplit(scene.url).port
    port = free_port()
    assert backend is not None
    try:
        with proxying(documented("server.md", number, port, backend, files), port, files):
            page.goto(f"{scheme}://127.0.0.1:{port}{path}")
            is_live(page)
    finally:
        scene.stop()
