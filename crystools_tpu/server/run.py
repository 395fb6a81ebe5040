"""Runs the application in a thread of its own, with its own event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import threading
from concurrent.futures import Future

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError

from crystools_tpu.server.app import TOKEN
from crystools_tpu.server.connections import Connections, Limits, RequestHandler
from crystools_tpu.server.security import is_loopback

logger = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 1.0
_IDLE_SECONDS = 75.0


class _NotTheClients(logging.Filter):
    """Leaves out of aiohttp's log what only says that a request was malformed: its client has been told."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_http_logger = logging.getLogger(f"{__name__}.http")
_http_logger.addFilter(_NotTheClients())


class ServerError(Exception):
    """The server could not be started. The message says why and what would help."""


class Server:
    """A server for an application made by `create_app`; `port` 0 takes a free one, with `tls` it is https.

    Raises ServerError for a host that is not loopback where the application has no token.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        if not is_loopback(host) and app[TOKEN] is None:
            raise ServerError(f"host {host} is reachable from other machines: give a token, or use 127.0.0.1")
        self._app = app
        self._host = host
        self._port = port
        self._tls = tls
        self._limits = limits
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    def start(self) -> tuple[str, int]:
        """Serves from now on; the host and port it listens on. Raises ServerError where it cannot."""
        listener = _listen(self._host, self._port)
        host, port = listener.getsockname()[:2]
        started: Future[None] = Future()
        serve = self._serve(listener, started)
        self._thread = threading.Thread(
            target=asyncio.run, args=(serve,), name="crystools-tpu-server", daemon=True
        )
        self._thread.start()
        started.result()
        return host, port

    def stop(self) -> None:
        """Closes all connections and joins the thread. Harmless when it is not running."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = None

    async def _serve(self, listener: socket.socket, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        connections = Connections(listener, self._limits, tls=self._tls)
        runner = web.AppRunner(
            self._app,
            access_log=None,
            logger=_http_logger,
            keepalive_timeout=_IDLE_SECONDS,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        try:
            await runner.setup()
            assert runner.server is not None
            runner.server.request_handler = connections.watched(_legible(runner.server.request_handler))
            connections.start(runner.server)
            started.set_result(None)
            await self._stopping.wait()
        except Exception as error:  # noqa: BLE001 - `start` raises it
            started.set_exception(error)
        finally:
            await connections.stop()
            await runner.cleanup()
            connections.abort()
            listener.close()


def _legible(handler: RequestHandler) -> RequestHandler:
    """Refuses a header that aiohttp repeats before any middleware, and fails at where it is no text."""

    async def check(request: web.BaseRequest) -> web.StreamResponse:
        if not request.headers.get(hdrs.EXPECT, "").isascii():
            raise web.HTTPExpectationFailed
        return await handler(request)

    return check


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ServerError(f"port {port} does not exist: choose 1 to 65535, or 0 for a free one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((str(address[0]), port), family=family, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:  # a name that no host can have
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            remedy = f"port {port} on {host} is in use: choose another, or port 0 for a free one"
            raise ServerError(remedy) from None
        raise ServerError(f"cannot listen on {host} port {port}: {error}") from None
