"""Who may talk to the server.

Without a token the server answers on the loopback interface alone, and only to a loopback `Host`: a page
elsewhere that had its own name resolved to 127.0.0.1 is refused. With a token every request that reads or
changes anything must carry it; the page's own files, which hold no data, need none. A browser's `Origin`
must be the host it talks to.

Mounted in another application, whoever that one lets in is let in, for there is nothing here that it does not
give away itself; the rule on `Origin` stays.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from crystools_tpu.server import wire

MAX_BODY_BYTES: Final = 64 * 1024

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def guard(
    token: str | None,
    *,
    loopback_only: bool,
    public: Collection[Handler] = (),
    allowed_origin: str | None = None,
) -> Middleware:
    """The middleware that refuses with 401 or 403 whoever may not talk to the handler.

    `public` are the handlers that need no token; `allowed_origin` is let in beside the request's own host,
    `*` lets in any.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if loopback_only and not is_loopback(_host_name(request.headers.get(hdrs.HOST, ""))):
            raise refusal(
                web.HTTPForbidden,
                "Host",
                "Host must be localhost or a loopback address; start the server with a token to use another",
            )
        if allowed_origin not in ("*", request.headers.get(hdrs.ORIGIN)) and not _same_origin(request):
            raise refusal(web.HTTPForbidden, "Origin", "Origin must be the host that the request goes to")
        if token is not None and request.match_info.handler not in public and not _has_token(request, token):
            raise refusal(
                web.HTTPUnauthorized,
                "token",
                "token is missing or wrong: send `Authorization: Bearer TOKEN` or `?token=TOKEN`",
            )
        return await handler(request)

    return check


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: the page may load nothing but its own files, and nothing is sniffed."""
    response.headers.update(_HEADERS)


async def bounded_body(request: web.Request) -> bytes:
    """The request's body. Raises HTTPRequestEntityTooLarge as soon as it exceeds `MAX_BODY_BYTES`."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(
                max_size=MAX_BODY_BYTES,
                actual_size=len(body),
                text=_refusal_text("body", f"body must be at most {MAX_BODY_BYTES} bytes"),
                content_type="application/json",
            )
    return bytes(body)


def refusal(kind: Callable[..., web.HTTPException], field: str, text: str) -> web.HTTPException:
    """An HTTP error whose body is `{schema, error: {field, message}}`."""
    return kind(text=_refusal_text(field, text), content_type="application/json")


def _refusal_text(field: str, text: str) -> str:
    return wire.dumps(wire.message(error={"field": field, "message": text}))


def _host_name(host_header: str) -> str:
    try:
        return urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return ""


def _same_origin(request: web.Request) -> bool:
    """A reverse proxy may change `Host`; it names the original in `X-Forwarded-Host`, as no page can."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return True
    asked = (request.headers.get(name, "").lower() for name in (hdrs.HOST, hdrs.X_FORWARDED_HOST))
    return origin.lower().partition("://")[2] in filter(None, asked)


def _has_token(request: web.Request, token: str) -> bool:
    scheme, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    given = bearer if scheme.lower() == "bearer" else request.query.get("token", "")
    return hmac.compare_digest(given.encode(), token.encode())
