"""Accepts connections for the server, and bounds what a client that is slow, silent or gone may cost.

aiohttp closes a connection that is idle between two requests. Here is the rest: how many there may be at
once, how long one may take to ask its first question, and how long it may leave an answer unread. Where there
are too many, or no file handle is left for another, the one that has waited longest for its client is closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from aiohttp import web

logger = logging.getLogger(__name__)

RequestHandler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MOST_CONNECTIONS: Final = 512
_AND_FORGET: Final = struct.pack("ii", 1, 0)
_RETRY_SECONDS: Final = 1.0
_SAY_AGAIN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """`connections` at once, by default half of the file handles that this process may have, at most 512.

    `head_seconds` are from a connection to the end of its first request's headers, `unread_seconds` those in
    which a client takes nothing of what is sent to it. Both are looked at every `watch_seconds`.
    """

    connections: int | None = None
    head_seconds: float = 20.0
    unread_seconds: float = 30.0
    watch_seconds: float = 1.0

    def most_connections(self) -> int:
        """How many there may be at once, at least one."""
        if self.connections is not None:
            return self.connections
        import resource  # Unix alone has it, and alone needs this server

        handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = handles != resource.RLIM_INFINITY and handles // 2 < MOST_CONNECTIONS
        return max(1, handles // 2) if few else MOST_CONNECTIONS


class _Connection:
    def __init__(self, accepted: socket.socket, now: float, *, tls: bool) -> None:
        self.socket = accepted
        self._tls = tls
        self.serving: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.asked = False
        self.waits_since: float | None = now
        self._began = now
        self._unread = 0
        self._unread_since = now

    @property
    def is_closed(self) -> bool:
        return self.socket.fileno() == -1

    def begun(self, task: asyncio.Task[None]) -> None:
        self.serving = None
        if self.transport is None:
            self.socket.close()

    def abort(self) -> None:
        if self.transport is not None:
            if self._unsent():  # else the kernel goes on to offer it
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AND_FORGET)
            self.transport.abort()
        elif self.serving is not None:
            self.serving.cancel()

    def is_overdue(self, now: float, limits: Limits) -> bool:
        """Whether its client has not asked in time, or has long taken nothing of what is sent."""
        unread = self._unsent()
        if unread == 0 or unread < self._unread:
            self._unread_since = now
        self._unread = unread
        silent = not self.asked and now - self._began > limits.head_seconds
        return silent or now - self._unread_since > limits.unread_seconds

    def _unsent(self) -> int:
        """Bytes. Of a TLS connection that is being closed asyncio does not tell, and ends it itself."""
        if self.transport is None or (self._tls and self.transport.is_closing()):
            return 0
        return self.transport.get_write_buffer_size()


class Connections:
    """All connections that come in at `listener`. `watched` says when the server works for one."""

    def __init__(
        self,
        listener: socket.socket,
        limits: Limits,
        *,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener = listener
        self._limits = limits
        self._most = limits.most_connections()
        self._tls = tls
        self._clock = clock
        self._protocol: Callable[[], asyncio.BaseProtocol] = asyncio.Protocol
        self._open: dict[asyncio.BaseProtocol, _Connection] = {}
        self._said: dict[str, float] = {}
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    def start(self, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        """Accepts on this event loop from now on, each connection for a protocol of its own."""
        self._protocol = protocol
        asyncio.get_running_loop().set_exception_handler(self._failed)
        self._listener.setblocking(False)
        self._resume()

    async def stop(self) -> None:
        """Accepts no more, and gives up what has not begun to be served."""
        asyncio.get_running_loop().remove_reader(self._listener)
        for timer in self._timers.values():
            timer.cancel()
        beginning = [each.serving for each in self._open.values() if each.serving is not None]
        for task in beginning:
            task.cancel()
        await asyncio.gather(*beginning, return_exceptions=True)

    def abort(self) -> None:
        """Cuts what is still open."""
        for connection in self._open.values():
            connection.abort()

    def watched(self, handler: RequestHandler) -> RequestHandler:
        """The server's handler, with which a connection is not one that waits for its client."""

        async def watch(request: web.BaseRequest) -> web.StreamResponse:
            connection = self._open.get(request.protocol)
            if connection is None:
                return await handler(request)
            connection.asked, connection.waits_since = True, None
            try:
                return await handler(request)
            finally:
                connection.waits_since = self._clock()

        return watch

    def _accept(self) -> None:
        """One at a time: by the next the file handles of those that were closed are free."""
        try:
            self._begin(self._listener.accept()[0])
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self._say(f"a connection cannot be accepted: {error.strerror}; idle ones are closed")
            if not self._close_longest_waiting():
                asyncio.get_running_loop().remove_reader(self._listener)
                self._later(_RETRY_SECONDS, self._resume)

    def _resume(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _begin(self, accepted: socket.socket) -> None:
        self._forget_closed()
        if len(self._open) >= self._most:
            self._say(f"more than {self._most} connections: those that have waited longest are closed")
            if not self._close_longest_waiting():
                accepted.close()
                return
        protocol = self._protocol()
        connection = self._open[protocol] = _Connection(accepted, self._clock(), tls=self._tls is not None)
        connection.serving = asyncio.create_task(self._serve(connection, protocol))
        connection.serving.add_done_callback(connection.begun)
        if self._close_overdue not in self._timers:
            self._later(self._limits.watch_seconds, self._close_overdue)

    async def _serve(self, connection: _Connection, protocol: asyncio.BaseProtocol) -> None:
        tls: dict[str, Any] = {}
        if self._tls is not None:
            seconds = self._limits.head_seconds
            tls = {"ssl": self._tls, "ssl_handshake_timeout": seconds, "ssl_shutdown_timeout": seconds}
        connection.socket.setblocking(False)
        try:
            connection.transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, connection.socket, **tls
            )
        except OSError as error:  # the client went, or speaks no TLS
            logger.debug("a connection was not begun: %s", error)

    def _close_longest_waiting(self) -> bool:
        waiting = [
            (each.waits_since, protocol)
            for protocol, each in self._open.items()
            if each.waits_since is not None and not each.is_closed
        ]
        if not waiting:
            return False
        _, longest = min(waiting, key=lambda entry: entry[0])
        self._open.pop(longest).abort()
        return True

    def _close_overdue(self) -> None:
        self._forget_closed()
        for connection in self._open.values():
            if connection.is_overdue(self._clock(), self._limits):
                logger.info("a connection is closed: its client neither asks nor reads")
                connection.abort()
        if self._open:
            self._later(self._limits.watch_seconds, self._close_overdue)
        else:
            del self._timers[self._close_overdue]

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Below 3.14 aiohttp's parser raises for some malformed addresses. The connection is closed then."""
        if context.get("protocol") in self._open and isinstance(context.get("exception"), ValueError):
            logger.info("a connection is closed: what it sent is no request")
        else:
            loop.default_exception_handler(context)

    def _forget_closed(self) -> None:
        for protocol in [protocol for protocol, each in self._open.items() if each.is_closed]:
            del self._open[protocol]

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timers[callback] = asyncio.get_running_loop().call_later(seconds, callback)

    def _say(self, text: str) -> None:
        """One line, however often it happens in a minute."""
        now = self._clock()
        if now - self._said.get(text, -_SAY_AGAIN_SECONDS) >= _SAY_AGAIN_SECONDS:
            self._said[text] = now
            logger.warning(text)
