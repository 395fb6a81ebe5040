"""The metrics in a file for node_exporter's textfile collector, where nothing may listen on a port.

node_exporter shows a file for as long as it lies there; `node_textfile_mtime_seconds` says how old it is.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from prometheus_client import generate_latest
from prometheus_client.registry import Collector

from crystools_tpu.whole_file import reason, written_whole

logger = logging.getLogger(__name__)

SUFFIX: Final = ".prom"
"""node_exporter reads no other file."""

INTERVAL_SECONDS: Final = 15.0
"""As often as Prometheus usually scrapes."""

_LAST_WRITE_SECONDS: Final = 5.0


class TextfileWriter:
    """Writes `registry` to `path`, whole or not at all; within a `with` block at an interval and at its end.

    A file that cannot be written is one warning, and again only after a write that succeeded.
    """

    def __init__(
        self, path: Path, registry: Collector, *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self._path = path
        self._registry = registry
        self._interval_seconds = interval_seconds
        self._failed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="crystools-tpu-textfile", daemon=True)

    def write(self) -> None:
        """Writes now."""
        try:
            with written_whole(self._path) as unfinished:
                unfinished.write_bytes(generate_latest(self._registry))
        except OSError as error:
            if not self._failed:
                logger.warning("the metrics could not be written to %s: %s", self._path, reason(error))
            self._failed = True
        else:
            self._failed = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_LAST_WRITE_SECONDS)
        if self._thread.is_alive():
            logger.warning("the metrics are still being written to %s: left behind", self._path)

    def _loop(self) -> None:
        self.write()
        while not self._stop.wait(self._interval_seconds):
            self.write()
        self.write()
