"""Who is refused, and with what words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import pytest
from aiohttp import WSServerHandshakeError
from aiohttp.test_utils import TestClient

from crystools_tpu.server import create_app
from crystools_tpu.server.security import MAX_BODY_BYTES, is_loopback

from .conftest import Bench, Serve

HEALTH = "/crystools-tpu/api/health"
Client: TypeAlias = "TestClient[Any, Any]"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LocalHost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.com", "localhost.example.com"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8189", "127.0.0.1.evil.example", "[", ""])
async def test_without_a_token_another_host_name_is_refused(client: Client, host: str) -> None:
    """A page whose own name was made to resolve to 127.0.0.1 has that name in Host and Origin."""
    answer = await client.get(HEALTH, headers={"Host": host, "Origin": f"http://{host}"})
    assert answer.status == 403
    assert (await answer.json())["error"]["field"] == "Host"


@pytest.mark.parametrize("host", ["localhost:8189", "127.0.0.1", "[::1]:8189"])
async def test_any_loopback_host_name_is_answered(client: Client, host: str) -> None:
    answer = await client.get(HEALTH, headers={"Host": host, "Origin": f"http://{host}"})
    assert answer.status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
async def test_another_origin_is_refused(client: Client, origin: str) -> None:
    answer = await client.put("/crystools-tpu/api/settings", json={}, headers={"Origin": origin})
    assert answer.status == 403
    assert (await answer.json())["error"]["field"] == "Origin"


async def test_another_origin_gets_no_websocket(client: Client) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        await client.ws_connect("/crystools-tpu/ws", headers={"Origin": "http://evil.example"})
    assert refused.value.status == 403


async def test_the_servers_own_origin_is_welcome(client: Client) -> None:
    own = {"Origin": f"http://127.0.0.1:{client.port}"}
    assert (await client.put("/crystools-tpu/api/settings", json={}, headers=own)).status == 200


@pytest.mark.parametrize(
    ("origin", "headers"),
    [
        ("https://tpu.example", {"X-Forwarded-Host": "tpu.example"}),
        ("https://tpu.example", {"X-Forwarded-Host": "tpu.example, inner.example"}),
        ("http://tpu.example:8080", {"Host": "tpu.example"}),
        ("http://[fd00::1]:8080", {"Host": "[fd00::1]"}),
        ("https://tpu.example", {"Host": "tpu.example:443"}),
        ("http://TPU.example:81", {"Host": "tpu.example:81"}),
        ("https://pod-8188.provider.example", {"Host": "10.1.2.3:60012", "Sec-Fetch-Site": "same-origin"}),
    ],
)
async def test_behind_a_proxy_the_servers_own_page_is_known_by_the_headers(
    serve: Serve, origin: str, headers: dict[str, str]
) -> None:
    client = await serve(token="secret")
    answer = await client.get(f"{HEALTH}?token=secret", headers={"Origin": origin, **headers})
    assert answer.status == 200


@pytest.mark.parametrize(
    ("origin", "headers"),
    [
        ("http://tpu.example:8080", {"Host": "tpu.example:81"}),
        ("http://tpu.example", {"Host": "tpu.example:8189"}),
        ("http://evil.example", {"Host": "upstream"}),
        ("http://evil.example", {"Host": "tpu.example", "X-Forwarded-Host": "tpu.example"}),
        ("https://tpu.example.evil.example", {"Host": "tpu.example"}),
        ("https://evil.example/tpu.example", {"Host": "tpu.example"}),
        ("https://tpu.example", {"Host": "inner", "Sec-Fetch-Site": "same-site"}),
        ("http://[", {"Host": "["}),
        ("http://a:port", {"Host": "a:port"}),
    ],
)
async def test_behind_a_proxy_another_sites_page_is_refused(
    serve: Serve, origin: str, headers: dict[str, str]
) -> None:
    client = await serve(token="secret")
    for key in ("", "&key=", "&key=secret"):
        answer = await client.get(f"{HEALTH}?token=secret{key}", headers={"Origin": origin, **headers})
        assert answer.status == 403
        assert (await answer.json())["error"]["field"] == "Origin"


async def test_behind_any_proxy_the_servers_own_page_is_known_by_the_key(client: Client) -> None:
    """Which no other site's can have: its browser gives it no answer that lacks the header of CORS."""
    strange = {"Origin": "http://tpu.example:8080"}
    answer = await client.get("/crystools-tpu/api/key")
    assert answer.headers["Cache-Control"] == "no-store"
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    key = (await answer.json())["key"]
    assert (await client.get("/crystools-tpu/api/key", headers=strange)).status == 403
    put = await client.put(f"/crystools-tpu/api/settings?key={key}", json={}, headers=strange)
    assert put.status == 200
    async with client.ws_connect(f"/crystools-tpu/ws?key={key}", headers=strange) as socket:
        assert (await socket.receive_json())["type"] == "hello"


async def test_the_key_of_one_server_is_not_anothers(serve: Serve) -> None:
    keys = {(await (await (await serve()).get("/crystools-tpu/api/key")).json())["key"] for _ in range(2)}
    assert len(keys) == 2
    assert all(len(key) == 22 for key in keys)


async def test_the_key_is_told_to_nobody_without_the_token(serve: Serve) -> None:
    client = await serve(token="secret")
    assert (await client.get("/crystools-tpu/api/key")).status == 401


@pytest.mark.parametrize(
    "path", ["/api/health", "/api/devices", "/api/runs", "/api/settings", "/metrics", "/ws"]
)
async def test_with_a_token_nothing_is_told_without_it(serve: Serve, path: str) -> None:
    client = await serve(token="secret", metrics_text=lambda _: (b"up 1\n", "text/plain"))
    refused = [
        await client.get(f"/crystools-tpu{path}"),
        await client.get(f"/crystools-tpu{path}?token=wrong"),
        await client.get(f"/crystools-tpu{path}", headers={"Authorization": "Bearer sécret"}),
        await client.get(f"/crystools-tpu{path}", headers={"Authorization": "Basic secret"}),
    ]
    assert [answer.status for answer in refused] == [401, 401, 401, 401]
    assert (await refused[0].json())["error"]["field"] == "token"


async def test_the_token_opens_by_header_and_by_query(serve: Serve) -> None:
    client = await serve(token="secret")
    assert (await client.get(f"{HEALTH}?token=secret")).status == 200
    assert (await client.get(HEALTH, headers={"Authorization": "Bearer secret"})).status == 200
    async with client.ws_connect("/crystools-tpu/ws?token=secret") as socket:
        assert (await socket.receive_json())["type"] == "hello"


def test_an_empty_token_is_no_token(bench: Bench) -> None:
    with pytest.raises(ValueError, match="token is empty: give a secret"):
        create_app(bench.served(), token="")


async def test_the_pages_own_files_need_no_token(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>")
    client = await serve(token="secret", web_root=tmp_path)
    assert (await client.get("/?token=secret")).status == 200
    assert (await client.get("/crystools-tpu/index.html")).status == 200


async def test_a_body_may_be_64_kib_and_no_more(client: Client) -> None:
    settings = "/crystools-tpu/api/settings"
    allowed = await client.put(settings, data=b"{}".ljust(MAX_BODY_BYTES))
    assert allowed.status == 200

    refused = await client.put(settings, data=b"{}".ljust(MAX_BODY_BYTES + 1))

    assert refused.status == 413
    assert await refused.json() == {
        "schema": 1,
        "error": {"field": "body", "message": "body must be at most 65536 bytes"},
    }


async def test_every_answer_carries_the_security_headers(client: Client) -> None:
    for path in (HEALTH, "/crystools-tpu/nothing", "/crystools-tpu/api/runs/nobody"):
        headers = (await client.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "unsafe" not in headers["Content-Security-Policy"]
