"""How right the time to go of a whole run is: `python -m benchmarks.time_to_go [--json FILE]`.

`demo` runs four times, some minutes in all, and its own websocket is heard: what a client would show, counted
down from the last message, at a quarter, half and three quarters of what the run then took. Measure on an
idle machine: where others take turns with it, the steps to come are not as those before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.telemetry import machine

POINTS = (0.25, 0.5, 0.75)
WITH_HISTORY, WITHOUT = 0.15, 0.30


@dataclass(frozen=True)
class Told:
    """What was told at a part of a run, by what, and what was left then."""

    part: float
    stage: int
    told_seconds: float | None
    by: str | None
    left_seconds: float
    target: float

    @property
    def error(self) -> float | None:
        """0.1 is 10% too long."""
        return None if self.told_seconds is None else self.told_seconds / self.left_seconds - 1

    @property
    def verdict(self) -> str:
        """Whether it was as near as was aimed at."""
        met = self.error is not None and abs(self.error) <= self.target
        return f"within {self.target:.0%}: {'met' if met else 'MISSED'}"


@dataclass(frozen=True)
class Message:
    """What a message said of the run's time to go, and when it came."""

    at_unix_seconds: float
    stage: int
    seconds: float | None
    by: str | None


async def demo(data: Path, compiled: Path, out: Path) -> tuple[list[Message], dict[str, Any]]:
    """One run of `demo`: what its websocket said, and its report."""
    environ = {
        **os.environ,
        "CRYSTOOLS_TPU_DATA_DIR": str(data),
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "crystools_tpu", "demo", "--once", "--out", str(out)]
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    page = (await process.stdout.readline()).decode().split()[-1]
    rest = asyncio.create_task(process.stdout.read())
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{page}ws") as socket:
        await socket.send_json({"type": "configure", "interval_seconds": 0})
        heard, report = await _heard(socket)
    await rest
    if await process.wait() != 0:
        raise SystemExit("the demo failed")
    return heard, report


async def _heard(socket: aiohttp.ClientWebSocketResponse[Any]) -> tuple[list[Message], dict[str, Any]]:
    heard: list[Message] = []
    async for frame in socket:
        message = json.loads(frame.data)
        if (progress := message.get("progress")) is not None:
            eta, by = progress.get("run_eta_seconds"), progress.get("run_eta_by")
            heard.append(Message(time.time(), message["stage"], eta, by))
        if message["type"] == "run_finished":
            return heard, message["report"]
    raise SystemExit("the demo ended without a word")


def told(heard: list[Message], report: dict[str, Any], target: float) -> list[Told]:
    """What a client showed at each part of the run."""
    began, total = report["started_unix_seconds"], report["total_seconds"]
    found = []
    for part in POINTS:
        now = began + part * total
        last = [message for message in heard if message.at_unix_seconds <= now][-1]
        seconds = None if last.seconds is None else max(0.0, last.seconds - (now - last.at_unix_seconds))
        found.append(Told(part, last.stage, seconds, last.by, (1 - part) * total, target))
    return found


def measure() -> list[dict[str, Any]]:
    """The runs: twice without a history, the first with nothing compiled; then twice with one."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        compiled, kept = Path(folder) / "compiled", Path(folder) / "kept"
        for name, data, target in (
            ("without a history, nothing compiled", Path(folder) / "first", WITHOUT),
            ("without a history, compiled before", kept, WITHOUT),
            ("with a history of one run", kept, WITH_HISTORY),
            ("with a history of two runs", kept, WITH_HISTORY),
        ):
            heard, report = asyncio.run(demo(data, compiled, Path(folder) / "out"))
            figures = told(heard, report, target)
            print(f"{name}: {report['total_seconds']:.1f} s in all")
            for each in figures:
                told_seconds = "n/a" if each.told_seconds is None else f"{each.told_seconds:.1f} s"
                error = "" if each.error is None else f" ({each.error:+.1%})"
                print(
                    f"  at {each.part:.0%}: {told_seconds} by {each.by}, {each.left_seconds:.1f} s "
                    f"were left{error}; {each.verdict}"
                )
            runs.append(
                {
                    "run": name,
                    "total_seconds": report["total_seconds"],
                    "load_average": os.getloadavg()[0],
                    "stages": [_stage(stage) for stage in report["stages"]],
                    "told": [{**asdict(each), "error": each.error} for each in figures],
                }
            )
    return runs


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    """The figures of a stage that an expectation is made of."""
    names = ("name", "component", "seconds", "compile_seconds", "compile_cache", "flops")
    return {**{name: stage[name] for name in names}, "mfu": stage["mfu"] and stage["mfu"]["ratio"]}


def main() -> None:
    """Prints what was told and what was left, and writes it with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    arguments = parser.parse_args()
    runs = measure()
    if arguments.json is not None:
        text = json.dumps({"machine": machine(), "runs": runs}, indent=2)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
