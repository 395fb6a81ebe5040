"""The page of a process, as `serve`, `demo` and a script have it: a monitor and a server, a thread each."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

from crystools_exporters.prometheus import PrometheusExporter
from crystools_tpu.data_dir import PROFILES, data_dir
from crystools_tpu.environment import PRICE, price_in
from crystools_tpu.monitor import Monitor
from crystools_tpu.open_pages import announced
from crystools_tpu.server import PREFIX, Server, create_app
from crystools_tpu.server.security import is_loopback
from crystools_tpu.sources import default_sources
from crystools_tpu.watching import watching

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where a page is. `scheme` is http or https."""

    host: str
    port: int
    token: str | None
    scheme: str

    @property
    def url(self) -> str:
        """The page's address, with the token where one is needed."""
        query = f"?token={quote(self.token, safe='')}" if self.token else ""
        return f"{self._root}{PREFIX}/{query}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus scrapes."""
        return f"{self._root}/metrics"

    @property
    def is_everywhere(self) -> bool:
        """Whether it answers on every address of this machine. The addresses here are for this machine."""
        return ip_address(self.host).is_unspecified

    @property
    def is_loopback(self) -> bool:
        """Whether it answers on this machine alone."""
        return ip_address(self.host).is_loopback

    @property
    def _root(self) -> str:
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{'localhost' if self.is_everywhere else bracketed}:{self.port}"


@contextlib.contextmanager
def serving(
    monitor: Monitor,
    *,
    host: str,
    port: int,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    simulated: str | None = None,
    profiles: Path | None = None,
    price_per_chip_hour: float | None = None,
) -> Iterator[tuple[Address, PrometheusExporter]]:
    """Serves for as long as the block lasts, beyond loopback with a random token where none is given.

    `simulated`, `profiles` and the price are those of `watching`. Raises ServerError for a host or a port
    that cannot be listened on.
    """
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(16)
    shown = watching(monitor, simulated=simulated, profiles=profiles, price_per_chip_hour=price_per_chip_hour)
    with shown as (served, exporter):
        server = Server(create_app(served, token=token), host=host, port=port, tls=tls)
        bound_host, bound_port = server.start()
        try:
            yield Address(bound_host, bound_port, token, "http" if tls is None else "https"), exporter
        finally:
            server.stop()


@contextlib.contextmanager
def serving_this_process(host: str, port: int) -> Iterator[Address]:
    """What `telemetry.serve` opens, which knows it by this name alone. It takes captures of the runs, too."""
    try:
        price = price_in(os.environ)
    except ValueError as error:
        logger.error("%s: %s; nothing is said of costs", PRICE, error)
        price = None
    page = serving(
        Monitor(default_sources()),
        host=host,
        port=port,
        profiles=data_dir() / PROFILES,
        price_per_chip_hour=price,
    )
    with page as (address, _), announced(address.url):
        yield address
