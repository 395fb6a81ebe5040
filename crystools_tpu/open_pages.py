"""Which pages are open on this machine, for a command that wants to say where its run can be watched.

Each process that serves one has a small file in the data directory, and holds a lock on it: the file of one
that was killed is known by that, and taken away. Machines may share a home, so it says of which one it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

from crystools_tpu.data_dir import data_dir
from crystools_tpu.environment import HISTORY
from crystools_tpu.telemetry.text import safe_text
from crystools_tpu.whole_file import hidden_beside

logger = logging.getLogger(__name__)

PAGES: Final = "pages"
"""The folder in the data directory for these files."""

_ANSWER_SECONDS: Final = 0.3

# Whether another machine still holds its lock is not known on every file system.
_FORGOTTEN_SECONDS: Final = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Page:
    """A page that shows the runs of all this user's processes. `url` lacks the token, if it needs one."""

    url: str
    needs_token: bool

    @property
    def text(self) -> str:
        """The address, and what is needed besides."""
        return f"{self.url} (with the token that it was started with)" if self.needs_token else self.url


@contextlib.contextmanager
def announced(url: str, environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Commands find the page for as long as the block lasts; where no file can be written they do not.

    `url` may have the token, which nobody is told.
    """
    page = Page(url.partition("?")[0], needs_token="?" in url)
    with contextlib.ExitStack() as stack:
        if _keeps_history(environ):
            try:
                stack.enter_context(_file(page, data_dir(environ) / PAGES))
            except OSError as error:
                logger.debug("nobody is told of %s: %s", page.url, error)
        yield


def open_page(
    environ: Mapping[str, str] = os.environ, *, answers: Callable[[str], bool] | None = None
) -> Page | None:
    """The page of this machine that was opened last and `answers`; None where there is none.

    Nor is there one for a process that keeps no history, which is where a page reads its run.
    """
    if not _keeps_history(environ):
        return None
    pages = _living(data_dir(environ) / PAGES)
    return next((page for page in pages if (answers or _answers)(page.url)), None)


def _keeps_history(environ: Mapping[str, str]) -> bool:
    return environ.get(HISTORY) != "off"


@contextlib.contextmanager
def _file(page: Page, folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    for _ in _living(folder):  # what was left behind goes
        pass
    path = folder / f"{uuid4().hex}.json"
    said = {"host": socket.gethostname(), "url": page.url, "needs_token": page.needs_token}
    with hidden_beside(path) as locked:
        locked.chmod(0o600)
        locked.write_text(json.dumps(said) + "\n")
        locked.replace(path)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _living(folder: Path) -> Iterator[Page]:
    """The pages of this machine whose processes live, the newest first. What is of the dead is taken away."""
    found: list[tuple[float, Page]] = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError):  # it has just gone
            page = _read(path)
            if page is not None:
                found.append((path.stat().st_mtime, page))
    yield from (page for _, page in sorted(found, key=lambda each: each[0], reverse=True))


def _read(path: Path) -> Page | None:
    """The page of a living process of this machine. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor) as file:
        try:
            said = json.loads(file.read(65536))
            host, page = said["host"], Page(safe_text(said["url"]), bool(said["needs_token"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # of another version
        here = host == socket.gethostname()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return page if here else None
        if here or time.time() - os.fstat(descriptor).st_mtime > _FORGOTTEN_SECONDS:
            path.unlink()
    return None


def _answers(url: str) -> bool:
    """Whether somebody listens there, as seen from here: a container has a loopback of its own."""
    try:
        address = urlsplit(url)
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=_ANSWER_SECONDS):
            return True
    except (OSError, ValueError):
        return False
