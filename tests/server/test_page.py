"""`telemetry.serve()` opens the page in the process that calls it."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from crystools_tpu import telemetry
from crystools_tpu.server import ServerError
from crystools_tpu.telemetry import doors


@pytest.fixture
def page() -> Iterator[telemetry.Page]:
    with telemetry.serve() as page:
        yield page


def ask(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
        return body


def test_a_page_stays_until_it_is_stopped_and_a_second_call_gives_the_same(
    page: telemetry.Page, capsys: pytest.CaptureFixture[str]
) -> None:
    assert b"<html" in ask(page.url)
    port = json.loads(ask(page.url + "api/health"))["port"]
    assert telemetry.serve() is page
    assert telemetry.serve(port=port) is page
    with pytest.raises(ValueError, match=rf"open already, at http.*:{port}/.*: stop\(\) it to have another"):
        telemetry.serve(host="0.0.0.0")
    page.stop()
    page.stop()
    with pytest.raises(urllib.error.URLError):
        ask(page.url)
    with telemetry.serve() as another:
        assert another is not page
        ask(another.url)
    assert capsys.readouterr().err == f"page: {another.url}\n", "each says where it is, once"


def test_a_notebook_shows_it_as_a_link(page: telemetry.Page) -> None:
    assert page._repr_html_() == f'<a href="{page.url}" target="_blank">{page.url}</a>'
    assert repr(page) == f"<crystools-tpu page {page.url}>"


def test_beyond_loopback_it_has_a_token() -> None:
    with telemetry.serve(host="0.0.0.0") as page:
        address, _, token = page.url.partition("?token=")
        assert len(token) > 16
        ask(f"{address}api/health?token={token}")
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            ask(f"{address}api/health")
        refused.value.close()


def test_what_cannot_be_opened_is_said_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ServerError, match=f"port {port} on 127.0.0.1 is in use: choose another, or port 0"
        ):
            telemetry.serve(port=port)
    with pytest.raises(TypeError, match="port is '8189': give a whole number"):
        telemetry.serve(port="8189")  # type: ignore[arg-type]

    def without_aiohttp() -> None:
        raise ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp")

    monkeypatch.setattr(doors, "page", without_aiohttp)
    with pytest.raises(
        ModuleNotFoundError, match="aiohttp, which is not installed: pip install crystools-tpu"
    ):
        telemetry.serve()
