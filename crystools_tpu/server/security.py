"""Who may talk to the server.

Without a token the server answers on the loopback interface alone, and only to a loopback `Host`: a page
elsewhere that had its own name resolved to 127.0.0.1 is refused. With a token every request that reads or
changes anything must carry it; the page's own files, which hold no data, need none.

A page of another site is refused, by what it cannot forge: `Origin` and `Sec-Fetch-Site`, which the browser
writes. Behind a proxy `Host` may be any name, and over plain http there is no `Sec-Fetch-Site`; then the page
shows the page key. It gets it with a GET, which any site may send, but whose answer a browser gives to the
server's own pages alone.

Mounted in another application, whoever that one lets in is let in, for there is nothing here that it does not
give away itself; the rule on other sites stays, for a websocket answers any page that asks.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from crystools_tpu.server import wire
from crystools_tpu.telemetry.events import to_wire

MAX_BODY_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 20.0

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
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
    page_key: str,
    public: Collection[Handler] = (),
    allowed_origin: str | None = None,
) -> Middleware:
    """The middleware that refuses with 401 or 403 whoever may not talk to the handler.

    `public` are the handlers that need no token. `page_key` is what only a page of the server's own can know;
    `allowed_origin` is let in beside those, `*` lets in any.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if loopback_only and not is_loopback(_host_name(request.headers.get(hdrs.HOST, ""))):
            remedy = "start the server with a token to use another"
            text = f"Host must be localhost or a loopback address; {remedy}"
            raise refusal(web.HTTPForbidden, "Host", text)
        if allowed_origin not in ("*", request.headers.get(hdrs.ORIGIN)) and not (
            _same_origin(request) or _is_secret(request.query.get("key", ""), page_key)
        ):
            text = "Origin is another site's, and `?key=` is not the page key"
            raise refusal(web.HTTPForbidden, "Origin", text)
        if token is not None and request.match_info.handler not in public and not _has_token(request, token):
            text = "token is missing or wrong: send `Authorization: Bearer TOKEN` or `?token=TOKEN`"
            raise refusal(web.HTTPUnauthorized, "token", text)
        return await handler(request)

    return check


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal `on_response_prepare`: the page may load nothing but its own files, and nothing is sniffed.

    What is no page may have a stricter policy of its own.
    """
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


async def bounded_body(request: web.Request, most_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The request's body. Raises an HTTP error where it ends early, or exceeds one of the two limits."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _body(request, most_bytes)
    except TimeoutError:
        text = f"body must be here within {BODY_SECONDS:g} seconds"
        raise refusal(web.HTTPRequestTimeout, "body", text) from None
    except (ConnectionError, web.RequestPayloadError, EOFError):
        raise refusal(web.HTTPBadRequest, "body", "body ended early or is malformed") from None


async def _body(request: web.Request, most_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise web.HTTPRequestEntityTooLarge(
                max_size=most_bytes,
                actual_size=len(body),
                text=_refusal_text("body", f"body must be at most {most_bytes} bytes"),
                content_type="application/json",
            )
    return bytes(body)


def refusal(kind: Callable[..., web.HTTPException], field: str, text: str) -> web.HTTPException:
    """An HTTP error whose body is `{schema, error: {field, message}}`."""
    return kind(text=_refusal_text(field, text), content_type="application/json")


def _refusal_text(field: str, text: str) -> str:
    return wire.dumps(to_wire(wire.Refusal(wire.Fault(field, text))))


def _host_name(host_header: str) -> str:
    try:
        return urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return ""


def _same_origin(request: web.Request) -> bool:
    """Whether the browser says so, or `Origin` is what the server or the proxy before it was asked for.

    `X-Forwarded-Host` cannot be set by a page. A proxy that passes `Host` on without the port is common.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or request.headers.get("Sec-Fetch-Site") == "same-origin":
        return True
    asked = [request.headers.get(hdrs.HOST, ""), *request.headers.get(hdrs.X_FORWARDED_HOST, "").split(",")]
    return any(_is_of(origin, host.strip()) for host in asked)


def _is_of(origin: str, host: str) -> bool:
    try:
        given, asked = urlsplit(origin), urlsplit(f"//{host}")
        port = given.port or _DEFAULT_PORTS.get(given.scheme)
        return given.hostname is not None and given.hostname == asked.hostname and asked.port in (None, port)
    except ValueError:
        return False


def _has_token(request: web.Request, token: str) -> bool:
    scheme, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return _is_secret(bearer if scheme.lower() == "bearer" else request.query.get("token", ""), token)


def _is_secret(given: str, secret: str) -> bool:
    """Bytes that are no UTF-8 come as surrogates, and are only wrong."""
    return hmac.compare_digest(given.encode(errors="surrogatepass"), secret.encode(errors="surrogatepass"))
