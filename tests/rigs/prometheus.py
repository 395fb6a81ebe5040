"""A real Prometheus on loopback, with a storage of its own, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.rigs.ports import free_port

START_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels, and (unix seconds, value) wherever it has a finite value."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def value(self) -> float:
        """The last value."""
        return self.points[-1][1]


@dataclass(frozen=True, slots=True)
class RunningPrometheus:
    """Where it answers."""

    url: str

    def query(self, expr: str) -> list[Series]:
        """The answer now, without the series that are NaN. Raises ValueError with Prometheus' own message."""
        return _series(self._get("query", query=expr), "value")

    def query_range(self, expr: str, start: float, end: float, step_seconds: float) -> list[Series]:
        """The answer from `start` to `end`, both unix seconds. NaN and infinities are left out."""
        answer = self._get("query_range", query=expr, start=start, end=end, step=step_seconds)
        return _series(answer, "values")

    def wait_for(
        self, expr: str, *, seconds: float, until: Callable[[list[Series]], bool] = bool
    ) -> list[Series]:
        """Asks until the answer is as wanted (not empty). Raises TimeoutError with the last answer."""
        ends = time.monotonic() + seconds
        while not until(answer := self.query(expr)):
            if time.monotonic() > ends:
                raise TimeoutError(f"{expr} still answers {answer} after {seconds:g} s")
            time.sleep(POLL_SECONDS)
        return answer

    def _get(self, path: str, **parameters: object) -> Any:
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30
            ) as response:
                return json.load(response)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters['query']}: {json.load(error)['error']}") from None


@contextlib.contextmanager
def running_prometheus(
    config: Path, storage: Path, *, program: str = "prometheus", retention: str = "30d"
) -> Iterator[RunningPrometheus]:
    """Prometheus with this configuration and storage folder, on a free port.

    Raises RuntimeError with its log if it ends, or TimeoutError if it takes longer than START_SECONDS.
    """
    port = free_port()
    command = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={storage}",
        f"--storage.tsdb.retention.time={retention}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    storage.mkdir(parents=True, exist_ok=True)
    log_file = storage.with_name(f"{storage.name}.log")
    with log_file.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log_file)
        yield RunningPrometheus(url)
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log_file: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError):  # refused, or 503 while it starts
            urllib.request.urlopen(f"{url}/-/ready", timeout=5).close()
            return
        if process.poll() is not None:
            raise RuntimeError(f"Prometheus ended while it started:\n{log_file.read_text()}")
        if time.monotonic() > ends:
            raise TimeoutError(f"Prometheus did not start within {START_SECONDS} s:\n{log_file.read_text()}")
        time.sleep(POLL_SECONDS)


def _series(result: Any, key: str) -> list[Series]:
    found = []
    for series in result:
        points = series[key] if key == "values" else [series[key]]
        finite = [(float(at), float(value)) for at, value in points if math.isfinite(float(value))]
        if finite:
            found.append(Series(series["metric"], finite))
    return found
