"""The metrics in a file for node_exporter's textfile collector, where nothing may listen on a port.

node_exporter shows a file for as long as it lies there; `node_textfile_mtime_seconds` says how old it is. Of
all files in its folder it makes one exposition, and drops what is there twice or differs: every series has
the name of its file, and every metric the same HELP, whichever version of this package wrote them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.text import describe_error, safe_text
from crystools_tpu.whole_file import reason, written_whole

logger = logging.getLogger(__name__)

SUFFIX: Final = ".prom"
"""node_exporter reads no other file."""

FILE_LABEL: Final = "textfile"
"""Names the file, without its suffix, on each of its series."""

HELP: Final = "What it means is in docs/metrics.md of crystools-tpu."
"""Never another: node_exporter drops a metric of which two files say different things."""

INTERVAL_SECONDS: Final = 15.0
"""Between two writes: as often as Prometheus usually scrapes."""

_LAST_WRITE_SECONDS: Final = 5.0


class _FileLabelled(Collector):
    """The metrics of another collector, with the name of their file on each series."""

    def __init__(self, collector: Collector, name: str) -> None:
        self._collector = collector
        self._labels = {FILE_LABEL: safe_text(name)}

    def collect(self) -> Iterator[Metric]:
        for metric in self._collector.collect():
            labelled = Metric(metric.name, HELP, metric.type)
            labelled.samples = [
                sample._replace(labels=sample.labels | self._labels) for sample in metric.samples
            ]
            yield labelled


class TextfileWriter:
    """Writes `registry` to `path`, whole or not at all; within a `with` block at an interval and at its end.

    A file that cannot be written is one warning, and again only after a write that succeeded.
    """

    def __init__(
        self, path: Path, registry: Collector, *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self._path = path
        self._registry = _FileLabelled(registry, path.stem)
        self._interval_seconds = interval_seconds
        self._failed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="crystools-tpu-textfile", daemon=True)

    def write(self) -> None:
        """Writes now. Raises nothing: who writes has better things to do."""
        try:
            with written_whole(self._path) as unfinished:
                unfinished.write_bytes(generate_latest(self._registry))
        except Exception as error:  # noqa: BLE001 - a metric that cannot be read is no reason to end either
            if not self._failed:
                why = reason(error) if isinstance(error, OSError) else describe_error(error)
                logger.warning(
                    "the metrics could not be written to %s: %s", safe_text(self._path), safe_text(why)
                )
            self._failed = True
        else:
            self._failed = False

    def __enter__(self) -> Self:
        with Guard(logger)("the metrics cannot be written at an interval"):
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        if self._thread.ident is None:  # there was none to be had
            return
        self._thread.join(_LAST_WRITE_SECONDS)
        if self._thread.is_alive():
            logger.warning("the metrics are still being written to %s: left behind", safe_text(self._path))

    def _loop(self) -> None:
        self.write()
        while not self._stop.wait(self._interval_seconds):
            self.write()
        self.write()
