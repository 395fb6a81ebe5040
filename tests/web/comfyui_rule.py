"""ComfyUI's own rule on whose page may ask: the strictest that a version of it has."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler


@web.middleware
async def comfyuis_rule(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers 403 without a word, as ComfyUI does.

    Refused is what the browser calls another site's (since 0.26; later only where `Host` is a loopback name),
    and, where `Host` is a loopback name, an `Origin` that is not the same, to the port if both have one.
    """
    if request.headers.get("Sec-Fetch-Site") == "cross-site" or not _same(
        request.headers.get("Host", "").lower(), request.headers.get("Origin", "").lower()
    ):
        return web.Response(status=403)
    return await handler(request)


def _same(host: str, origin: str) -> bool:
    asked, given = urlsplit(f"//{host}"), urlsplit(origin)
    if asked.hostname not in ("localhost", "127.0.0.1", "::1") or not given.netloc:
        return True
    if asked.port is None or given.port is None:
        return asked.hostname == given.hostname
    return asked.netloc == given.netloc
