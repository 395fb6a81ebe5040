"""The websocket: snapshots at each client's own rate, telemetry events to all at once.

The monitor is subscribed to only while some client wants snapshots, the telemetry bus only while there is
a client, and only then the runs of other processes are followed, in the history. Everything here runs on the
event loop; the monitor's and the pipelines' threads do no more than wake it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from aiohttp import WSCloseCode, WSMsgType, web

from crystools_tpu.monitor import Monitor, Snapshot
from crystools_tpu.server import wire
from crystools_tpu.server.runs import Runs
from crystools_tpu.server.security import MAX_BODY_BYTES, refusal
from crystools_tpu.server.settings import (
    ClientSettings,
    FieldError,
    Settings,
    parse_object,
    updated_client_settings,
)
from crystools_tpu.telemetry.events import RunAttached, RunChanged, RunReport, to_wire
from crystools_tpu.telemetry.fold import Fold, with_progress
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.pubsub import Bus, Subscription
from crystools_tpu.telemetry.time_to_go import AlikeOf

logger = logging.getLogger(__name__)

MAX_FRAMES: Final = 256
_HEARTBEAT_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 1.0


class Client:
    """One connection: its settings and the frames it has still to be sent, the oldest lost beyond 256."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.BaseTransport | None = None) -> None:
        self._socket = socket
        self._transport = transport
        self.settings = ClientSettings()
        self.dropped = 0
        self._frames: deque[str] = deque()
        self._ready = asyncio.Event()
        self._due_at: float | None = None

    def offer(self, frame: str) -> None:
        """Queues a frame. Never waits."""
        if len(self._frames) == MAX_FRAMES:
            self._frames.popleft()
            self.dropped += 1
            if self.dropped == 1:
                logger.warning("a websocket client reads too slowly: its oldest frames are dropped")
        self._frames.append(frame)
        self._ready.set()

    async def send_frames(self) -> None:
        """Sends what is queued until cancelled or the connection is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._ready.wait()
                self._ready.clear()
                while self._frames:
                    await self._socket.send_str(self._frames.popleft())

    async def close(self) -> None:
        """Says goodbye, and cuts the connection where the client does not hear it."""
        try:
            await asyncio.wait_for(self._socket.close(code=WSCloseCode.GOING_AWAY), 2 * _CLOSE_SECONDS)
        except TimeoutError:
            if isinstance(self._transport, asyncio.WriteTransport):
                self._transport.abort()

    def cut_soon(self) -> None:
        """The connection has ended; what its client still does not read would keep it open for ever."""
        if isinstance(self._transport, asyncio.WriteTransport):
            asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._transport.abort)

    def reschedule(self) -> None:
        """The next snapshot is due at once."""
        self._due_at = None

    def takes(self, now: float, interval_seconds: float, slack_seconds: float) -> bool:
        """Whether a snapshot taken at `now` is due, to the nearest sample. Survives clock changes."""
        due_at = self._due_at
        if due_at is not None and slack_seconds < due_at - now <= 2 * interval_seconds:
            return False
        on_time = due_at is not None and abs(now - due_at) <= interval_seconds
        self._due_at = (due_at if on_time and due_at is not None else now) + interval_seconds
        return True


class Hub:
    """All clients, and what they are subscribed to.

    `report_of` gives a run of this process at once, `alike_of` the runs that are like it.
    """

    def __init__(
        self,
        monitor: Monitor,
        bus: Bus,
        runs: Runs,
        hello: Callable[[Settings], wire.Hello],
        report_of: Callable[[str], RunReport | None],
        alike_of: AlikeOf,
        price_per_chip_hour: float | None,
    ) -> None:
        self._monitor = monitor
        self._bus = bus
        self._runs = runs
        self._hello = hello
        self._alike_of = alike_of
        self._new_fold = partial(Fold, report_of, monitor.unix_seconds, alike_of)
        self._settings = Settings(monitor.interval_seconds, price_per_chip_hour=price_per_chip_hour)
        self._clients: set[Client] = set()
        self._guard = Guard(logger)
        self._unsubscribe: Callable[[], None] | None = None
        self._events: Subscription | None = None
        self._unfollow: Callable[[], None] | None = None
        self._fold = self._new_fold()

    @property
    def settings(self) -> Settings:
        """The server's settings; setting them takes effect at once."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        for client in self._clients:
            client.reschedule()
        self._update_sampling()

    @property
    def subscribers(self) -> int:
        """How many clients want snapshots."""
        return sum(self._interval(client) > 0 for client in self._clients)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serves one websocket connection from its handshake to its end."""
        socket = web.WebSocketResponse(
            timeout=_CLOSE_SECONDS, heartbeat=_HEARTBEAT_SECONDS, compress=False, max_msg_size=MAX_BODY_BYTES
        )
        try:
            await socket.prepare(request)
        except UnicodeEncodeError:  # aiohttp repeats in its answer what is no text
            raise refusal(web.HTTPBadRequest, "Upgrade", "Upgrade must be websocket") from None
        client = Client(socket, request.transport)
        self._join(client)
        sender = asyncio.create_task(client.send_frames())
        try:
            async for message in socket:
                self._receive(client, message.type, message.data)
        finally:
            self._leave(client)
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sender
            client.cut_soon()
        return socket

    async def close(self) -> None:
        """Ends all connections."""
        await asyncio.gather(*(client.close() for client in self._clients))

    def _join(self, client: Client) -> None:
        if self._events is None:
            self._events = self._bus.subscribe(wakeup=_waker(self._publish_events))
            self._fold = self._new_fold()  # of what came between
        self._publish_events()  # what happened before the hello is in the hello
        client.offer(wire.dumps(to_wire(self._hello(self._settings))))
        self._clients.add(client)
        if self._unfollow is None:
            with self._guard("the runs of other processes cannot be followed"):
                self._unfollow = self._runs.follow(wire.HELLO_RUNS, self._teller())
        self._update_sampling()

    def _leave(self, client: Client) -> None:
        self._clients.discard(client)
        self._update_sampling()
        if not self._clients and self._events is not None:
            self._events.close()
            self._events = None
        if not self._clients and self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    def _receive(self, client: Client, kind: WSMsgType, data: str | bytes) -> None:
        try:
            if kind is not WSMsgType.TEXT:
                raise FieldError("body", "body must be text, not binary")
            client.settings = updated_client_settings(client.settings, parse_object(data))
        except FieldError as error:
            client.offer(wire.dumps(to_wire(wire.WireError(error.field, str(error)))))
            return
        client.reschedule()
        self._update_sampling()

    def _interval(self, client: Client) -> float:
        own = client.settings.interval_seconds
        return self._settings.interval_seconds if own is None else own

    def _update_sampling(self) -> None:
        """The monitor samples as fast as the fastest client wants, and not at all when none does."""
        wanted = [interval for interval in map(self._interval, self._clients) if interval > 0]
        interval = min(wanted, default=self._settings.interval_seconds)
        if interval != self._monitor.interval_seconds:
            self._monitor.interval_seconds = interval
        if wanted and self._unsubscribe is None:
            self._unsubscribe = self._monitor.subscribe(_waker(self._publish_snapshot))
        elif not wanted and self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _publish_snapshot(self, snapshot: Snapshot) -> None:
        frames: dict[frozenset[str] | None, str] = {}
        now, slack = snapshot.time_unix_seconds, self._monitor.interval_seconds / 2
        with self._guard("a snapshot could not be sent"):
            for client in self._clients:
                interval, metrics = self._interval(client), client.settings.metrics
                if interval > 0 and client.takes(now, interval, slack):
                    if metrics not in frames:
                        message = wire.snapshot_message(snapshot, self._settings.disks, metrics)
                        frames[metrics] = wire.dumps(message)
                    client.offer(frames[metrics])

    def _publish_events(self) -> None:
        for event in self._events.drain() if self._events is not None else ():
            if isinstance(event, RunAttached):  # the history's; that it is kept is told
                continue
            with self._guard(f"{event.type} could not be sent"):
                self._offer(wire.dumps(to_wire(self._fold.add(event))))

    def _teller(self) -> Callable[[RunReport], None]:
        """Tells all clients of a run of another process, from another thread, where the frame is made too."""
        offer = _waker(self._offer)

        def tell(report: RunReport) -> None:
            event = RunChanged(with_progress(report, self._monitor.unix_seconds(), self._alike_of))
            offer(wire.dumps(to_wire(event)))

        return tell

    def _offer(self, frame: str) -> None:
        for client in self._clients:
            client.offer(frame)


def _waker(callback: Callable[..., None]) -> Callable[..., None]:
    """A function for other threads: calls `callback` on this event loop, unless that has ended."""
    loop = asyncio.get_running_loop()

    def wake(*args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
            loop.call_soon_threadsafe(callback, *args)

    return wake
