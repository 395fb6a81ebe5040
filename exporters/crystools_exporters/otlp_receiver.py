"""Whether an OTLP receiver takes what it is sent: a line when it no longer does, and one when it does again.

OpenTelemetry's exporters complain at every try. Within an export of ours their complaints are taken from the
log, and the receiver is looked at instead: where it cannot be reached, or speaks another protocol than it is
spoken to, our line says so and which variable is to be changed. Else it gives the first complaint.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from crystools_tpu.telemetry.text import describe_error, safe_text

logger = logging.getLogger(__name__)

_PROBE_SECONDS: Final = 2.0
_REASON_CHARACTERS: Final = 200

_T = TypeVar("_T")

# What a client of each protocol says first, and what only a server of it answers.
_GREETINGS: Final = {
    "http/protobuf": b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "grpc": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
}
_USUAL_PORTS: Final = {"http/protobuf": 4318, "grpc": 4317}
_NAMES: Final = {"http/protobuf": "HTTP", "grpc": "gRPC"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a receiver is, and how it is spoken to, by which variables of the environment."""

    endpoint: str
    protocol: str
    secure: bool
    endpoint_variable: str
    protocol_variable: str

    @property
    def shown(self) -> str:
        """The address without a password or key that it may hold."""
        scheme, colon, rest = self.endpoint.partition("?")[0].rpartition("://")
        return safe_text(f"{scheme}{colon}{rest.rpartition('@')[2]}")


class Receiver:
    """What one receiver does with the signals that are exported to it. For use from any thread."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._failing: set[str] = set()
        self._complaint: str | None = None
        self._diagnosis: str | None = None
        self._closed = False

    def watch(self, signal: str, export: Callable[[], _T], failure: _T) -> _T:
        """The result of an export, of which `failure` is one; what it raises is one too."""
        token = _exporting_to.set(self)
        try:
            result = export()
        except Exception as error:  # noqa: BLE001 - it becomes the reason
            self.complain(describe_error(error) or "")
            result = failure
        finally:
            _exporting_to.reset(token)
        if result == failure:
            self.complain("it gives no reason")  # where OpenTelemetry keeps to itself what it has said before
            self._failed(signal)
        else:
            self._took(signal)
        return result

    def complain(self, text: str) -> None:
        """Takes what is wrong, of which the first is told, once the receiver has been looked at."""
        with self._looking:
            if self._complaint is None:
                self._complaint = safe_text(text)
                self._diagnosis = diagnosis(self._address)

    def close(self, *, unanswered: bool) -> None:
        """Nothing is said from now on; but that it has not answered is, unless it was known already."""
        with self._lock:
            self._closed = True
            if unanswered and not self._failing:
                reason = f" ({self._reason()})" if self._complaint is not None else ""
                logger.warning(
                    "the OTLP receiver %s does not answer: what it was sent last may be lost%s",
                    self._address.shown,
                    reason,
                )

    def _failed(self, signal: str) -> None:
        with self._lock:
            if not self._failing and not self._closed:
                logger.warning(
                    "the OTLP receiver %s does not take %s: %s. They are dropped until it does",
                    self._address.shown,
                    signal,
                    self._reason(),
                )
            self._failing.add(signal)

    def _took(self, signal: str) -> None:
        with self._lock:
            was_failing = bool(self._failing)
            self._failing.discard(signal)
            if not self._failing:
                self._complaint = self._diagnosis = None
                if was_failing and not self._closed:
                    address = self._address.shown
                    logger.warning("the OTLP receiver %s takes %s again", address, signal)

    def _reason(self) -> str:
        return self._diagnosis or (self._complaint or "")[:_REASON_CHARACTERS]


_exporting_to: ContextVar[Receiver | None] = ContextVar("crystools_tpu_exporting_to", default=None)


def _take_complaints(record: logging.LogRecord) -> bool:
    """A filter that lets no warning pass which is logged within an export of ours: the receiver gets it."""
    receiver = _exporting_to.get()
    if receiver is None or record.levelno < logging.WARNING:
        return True
    receiver.complain(record.getMessage())
    return False


def watched(exporter: type[Any], receiver: Receiver, signal: str, failure: Any) -> Any:
    """An exporter of the class, whose exports are watched; of one that failed it returns `failure`."""

    class Watched(exporter):  # type: ignore[misc]
        def export(self, *args: Any, **kwargs: Any) -> Any:
            return receiver.watch(signal, lambda: super(Watched, self).export(*args, **kwargs), failure)

    made = Watched()
    # A filter is for the records of its own logger alone, and the names differ from version to version.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("opentelemetry."):
            logging.getLogger(name).addFilter(_take_complaints)
    return made


def diagnosis(address: Address) -> str | None:
    """Why nothing can be sent there, if that can be seen from here. Takes some seconds at most."""
    endpoint = address.endpoint
    with contextlib.suppress(ValueError):  # it is no address, and OpenTelemetry says so
        place = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        host, port = place.hostname, place.port or (443 if address.secure else 80)
        behind_proxy = bool(getproxies()) and host is not None and not proxy_bypass(host)
        if host is not None and not behind_proxy:  # else it is the proxy that would be looked at
            return _look(address, host, port)
    return None


def _look(address: Address, host: str, port: int) -> str | None:
    try:
        _connected(host, port).close()
    except OSError as error:
        return f"it cannot be reached ({error.strerror or error})"
    own = address.protocol
    (other,) = (name for name in _GREETINGS if name != own)
    if _speaks(own, host, port):
        if not address.secure:
            return None
        return f"it speaks no TLS: begin {address.endpoint_variable} with http://"
    if _speaks(other, host, port):
        return (
            f"{_NAMES[other]} is spoken there: set {address.protocol_variable}={other}, or name the port of "
            f"{_NAMES[own]} (usually {_USUAL_PORTS[own]}) in {address.endpoint_variable}"
        )
    if not address.secure and _speaks_tls(host, port):
        return f"it speaks TLS: begin {address.endpoint_variable} with https://"
    return None


def _speaks(protocol: str, host: str, port: int) -> bool:
    with contextlib.suppress(OSError), _connected(host, port) as connection:
        connection.sendall(_GREETINGS[protocol])
        answer = connection.recv(16)
        if protocol == "grpc":  # a frame of settings: its length, and its type
            return len(answer) >= 4 and answer[0] == 0 and answer[3] == 4
        return answer.startswith(b"HTTP/1.")
    return False


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whose it is does not matter: nothing is sent
    with (
        contextlib.suppress(OSError),
        _connected(host, port) as connection,
        context.wrap_socket(connection, server_hostname=host),
    ):
        return True
    return False


def _connected(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=_PROBE_SECONDS)  # and so long for each answer
