"""Where a command leaves its metrics: a file for node_exporter, a pushgateway."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from crystools_tpu import telemetry
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.whole_file import obstacle

logger = logging.getLogger(__name__)


def check_textfile(path: Path) -> None:
    """Raises CommandError for a file that cannot be or that node_exporter would not read."""
    from crystools_exporters.textfile import SUFFIX

    if path.suffix != SUFFIX:
        raise CommandError(f"--textfile: {path} must end in {SUFFIX}, for node_exporter reads no other file")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"--textfile: the folder of {path} does not exist; create it first")
    if (why := obstacle(path)) is not None:
        raise CommandError(f"--textfile: {path}: {why}")


def check_pushgateway(url: str) -> None:
    """Raises CommandError for what is no address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise CommandError(f"--pushgateway: {url} is no address; give one like http://gateway:9091")


@contextlib.contextmanager
def leaving_metrics(*, textfile: Path | None, pushgateway: str | None) -> Iterator[None]:
    """The metrics of the runs within the block are written and pushed at its end, however it ends.

    What cannot be written or pushed is a warning. Of a block without a run there is nothing to say.
    """
    if textfile is not None:
        check_textfile(textfile)
    if pushgateway is not None:
        check_pushgateway(pushgateway)
    if textfile is None and pushgateway is None:
        yield
        return
    from crystools_exporters.prometheus import PrometheusExporter
    from crystools_exporters.pushgateway import push
    from crystools_exporters.textfile import TextfileWriter

    # No machine: its readings would stay where they are put, long after they were true.
    exporter = PrometheusExporter(None, bus=telemetry.bus)
    try:
        yield
    finally:
        with Guard(logger)("the metrics of the run could not be left"):
            exporter.close()
            if any(family.name == "crystools_tpu_runs" and family.samples for family in exporter.collect()):
                if textfile is not None:
                    TextfileWriter(textfile, exporter.registry).write()
                if pushgateway is not None:
                    push(pushgateway, exporter.registry)
