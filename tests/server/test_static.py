"""The page's files, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

from .conftest import Serve


@pytest.fixture
async def client(serve: Serve, tmp_path: Path) -> TestClient[Any, Any]:
    root = tmp_path / "web"
    (root / "components").mkdir(parents=True)
    (tmp_path / "secret.js").write_text("secret")
    (root / "index.html").write_text("<!doctype html>")
    (root / "style.css").write_text("body {}")
    (root / "icon.svg").write_text("<svg/>")
    (root / "notes.txt").write_text("not for browsers")
    (root / "components" / "bar.js").write_text("export {}")
    (root / "link.js").symlink_to(tmp_path / "secret.js")
    return await serve(web_root=root)


@pytest.mark.parametrize(
    ("path", "content_type", "text"),
    [
        ("", "text/html; charset=utf-8", "<!doctype html>"),
        ("index.html", "text/html; charset=utf-8", "<!doctype html>"),
        ("style.css", "text/css; charset=utf-8", "body {}"),
        ("components/bar.js", "text/javascript; charset=utf-8", "export {}"),
        ("icon.svg", "image/svg+xml", "<svg/>"),
    ],
)
async def test_a_file_of_the_page(
    client: TestClient[Any, Any], path: str, content_type: str, text: str
) -> None:
    answer = await client.get(f"/crystools-tpu/{path}")
    assert (answer.status, await answer.text()) == (200, text)
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["Cache-Control"] == "no-cache"


async def test_a_file_that_did_not_change_is_not_sent_again(client: TestClient[Any, Any]) -> None:
    etag = (await client.get("/crystools-tpu/style.css")).headers["ETag"]
    again = await client.get("/crystools-tpu/style.css", headers={"If-None-Match": etag})
    assert (again.status, await again.read()) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.js",
        "..%2fsecret.js",
        "%2e%2e/secret.js",
        "components/../../secret.js",
        "components/..%2f..%2fsecret.js",
        "..%5csecret.js",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "link.js",
        "notes.txt",
        "components",
        "components/",
        "index.html%00.js",
    ],
)
async def test_nothing_else_exists(client: TestClient[Any, Any], path: str) -> None:
    url = URL(f"http://127.0.0.1:{client.port}/crystools-tpu/{path}", encoded=True)
    answer = await client.session.get(url)
    assert answer.status == 404
    assert "secret" not in await answer.text()


@pytest.mark.parametrize("path", ["/", "/crystools-tpu"])
async def test_the_way_to_the_page(client: TestClient[Any, Any], path: str) -> None:
    """Relative: a proxy may have all this under a path of its own."""
    answer = await client.get(f"{path}?token=a%26b", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "crystools-tpu/?token=a%26b")
    assert (await client.get(path)).url.path == "/crystools-tpu/"
