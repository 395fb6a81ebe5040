"""`telemetry.serve()`: the page for a script or a notebook, in its own process."""

from __future__ import annotations

import atexit
import contextlib
import html
import os
import sys
import threading
from types import TracebackType
from typing import Final

from crystools_tpu.telemetry import doors

_HOST: Final = "127.0.0.1"
_ANY_PORT: Final = 0


class Page(contextlib.AbstractContextManager["Page"]):
    """An open page. It stays until `stop`, the end of its `with` block, or the end of the process."""

    def __init__(self, url: str, host: str, port: int, open_: contextlib.ExitStack) -> None:
        self.url = url
        """Its address, with the token where it needs one."""
        self._host, self._port = host, port
        self._open = open_
        self._pid = os.getpid()

    def stop(self) -> None:
        """Closes the page. Harmless when it is closed already. Runs go on, and are kept."""
        if self._pid != os.getpid():  # it is the parent's of a process that was forked
            return
        atexit.unregister(self.stop)
        _pages.forget(self)
        self._open.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<crystools-tpu page {self.url}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a link."""
        url = html.escape(self.url)
        return f'<a href="{url}" target="_blank">{url}</a>'


class _Pages:
    """The page that is open in this process, if one is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._page: Page | None = None
        self._inherited: list[Page | None] = []

    def begin_anew(self) -> None:
        """In a process that was forked: the page is the parent's."""
        self._inherited.append(self._page)  # to let go of it would close it
        self._lock = threading.Lock()
        self._page = None

    def forget(self, page: Page) -> None:
        if self._page is page:
            self._page = None

    def opened(self, host: str, port: int) -> Page:
        with self._lock:
            page = self._page
            if page is None:
                self._page = page = _open(host, port)
            elif host not in (_HOST, page._host) or port not in (_ANY_PORT, page._port):
                raise ValueError(f"the page is open already, at {page.url}: stop() it to have another")
            return page


def _open(host: str, port: int) -> Page:
    try:
        module = doors.page()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the page needs {error.name}, which is not installed: pip install crystools-tpu", name=error.name
        ) from None
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(module.serving_this_process(host, port))
        page = Page(address.url, host, address.port, stack.pop_all())
    atexit.register(page.stop)
    print(f"page: {page.url}", file=sys.stderr)  # what a script prints is its own
    return page


_pages = _Pages()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_pages.begin_anew)


def serve(host: str = _HOST, port: int = _ANY_PORT) -> Page:
    """Opens the page for this process, prints its address, and returns it; the same while it is open.

    It is that of `crystools-tpu serve`: this machine, this process's runs as they happen, and all that are
    kept. Port 0 takes a free one. Beyond loopback the address has a random token, without which nobody gets
    in. Raises ModuleNotFoundError where aiohttp is not installed, ValueError for another host or port than
    those of the page that is open, and `crystools_tpu.server.ServerError` where one cannot be listened on.
    """
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port is {port!r}: give a whole number, such as 8189, or 0 for a free one")
    return _pages.opened(host, port)
