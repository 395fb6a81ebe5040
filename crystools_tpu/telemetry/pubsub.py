"""The bus: one publisher side, any number of bounded subscriptions. Publishing never blocks."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from crystools_tpu.telemetry.events import Event
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)


class Subscription(AbstractContextManager["Subscription"]):
    """A bounded queue of events. When it is full the oldest event is lost and `dropped` counts it.

    `wakeup` is called after each event, in the publisher's thread; it must return at once (an asyncio
    consumer passes `lambda: loop.call_soon_threadsafe(...)`).
    """

    def __init__(self, bus: Bus, maxlen: int, wakeup: Callable[[], None] | None) -> None:
        self._bus = bus
        self._events: deque[Event] = deque()
        self._maxlen = maxlen
        self._wakeup = wakeup
        self._ready = threading.Condition()
        self._closed = False
        self._guard = Guard(logger)
        self.dropped = 0

    def get(self, timeout: float | None = None) -> Event | None:
        """The oldest event; waits up to `timeout` seconds. None when nothing came or it was closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._events or self._closed, timeout)
            return self._events.popleft() if self._events else None

    def drain(self) -> list[Event]:
        """All events at hand, oldest first, without waiting."""
        with self._ready:
            events = list(self._events)
            self._events.clear()
        return events

    def close(self) -> None:
        """Leaves the bus and wakes whoever waits in `get`."""
        self._bus._remove(self)
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _offer(self, event: Event) -> None:
        with self._ready:
            if len(self._events) == self._maxlen:
                self._events.popleft()
                self.dropped += 1
            self._events.append(event)
            self._ready.notify()
        if self._wakeup is not None:
            with self._guard("a telemetry subscriber's wakeup failed"):
                self._wakeup()


class Bus:
    """Hands each event to every subscription."""

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()

    def subscribe(self, maxlen: int = 4096, wakeup: Callable[[], None] | None = None) -> Subscription:
        """A new subscription that receives every event published from now on."""
        if maxlen < 1:
            raise ValueError(f"maxlen is {maxlen}; a subscription holds at least one event")
        subscription = Subscription(self, maxlen, wakeup)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def publish(self, event: Event) -> None:
        """Offers the event to all. A subscriber whose wakeup fails is logged once and harms nobody."""
        for subscription in self._subscriptions:
            subscription._offer(event)

    def begin_anew(self) -> None:
        """In a process that was forked: whoever subscribed did so in the parent, and stays there."""
        self._subscriptions = ()
        self._lock = threading.Lock()

    def _remove(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
