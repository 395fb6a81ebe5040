"""The programs that read our metrics, as Debian packages them, each for one test on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.rigs.ports import free_port

PATIENCE_SECONDS = 60.0
T = TypeVar("T")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        body: bytes = answer.read()
        return body


def until(ask: Callable[[], T | None], what: str) -> T:
    """Its first answer that is something, or a failure that names what did not come."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends:
        try:
            if answer := ask():
                return answer
        except (ConnectionError, urllib.error.URLError):
            pass  # it is still starting
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {PATIENCE_SECONDS:g} s")


@contextmanager
def running(program: str, folder: Path, *options: str) -> Iterator[str]:
    """The address at which the program answers. Skips where it is not installed."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (Debian package of its name): it does NOT read our metrics")
    address = f"127.0.0.1:{free_port()}"
    with (folder / f"{program}.log").open("wb") as log:
        with subprocess.Popen(
            [path, f"--web.listen-address={address}", *options], stdout=log, stderr=log, cwd=folder
        ) as process:
            try:
                until(lambda: get(f"http://{address}/metrics"), program)
                yield f"http://{address}"
            finally:
                process.kill()


@contextmanager
def prometheus(folder: Path, scrape_configs: list[dict[str, Any]]) -> Iterator[Callable[..., Any]]:
    """A Prometheus that scrapes twice a second; `ask("query", query="up")` is the `data` of its API."""
    config = {"global": {"scrape_interval": "500ms"}, "scrape_configs": scrape_configs}
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    options = (
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--enable-feature=exemplar-storage",
    )
    with running("prometheus", folder, *options) as url:

        def ask(path: str, **parameters: Any) -> Any:
            return json.loads(get(f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))["data"]

        yield ask
