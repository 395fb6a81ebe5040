"""What the history of runs costs and loses: `python -m benchmarks.history [--json FILE]`.

Ten thousand runs of a 720p video are written; the command that lists the newest is timed against Python with
its own sqlite3 asking for the same rows, and a page of the API against the same. Fifty runs are killed at
random moments with SIGKILL, and the greatest loss is reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.telemetry import Figure, alternate, machine
from crystools_exporters.run_log import RunLog
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunReport

RUNS = 10_000
STAGES = (("load", 0), ("text_encode", 1), ("load", 0), ("denoise", 50), ("vae_decode", 21), ("save", 0))
KILLS = 50
LIST_SECONDS = 0.3  # the target of `runs list`

_PEER = "import sqlite3, sys; [print(row) for row in sqlite3.connect(sys.argv[1]).execute({query!r})]"
_NEWEST = "SELECT report FROM run ORDER BY started_unix_seconds DESC LIMIT 20"

_RUN = """
import time
from crystools_exporters.exporting import exporting
from crystools_tpu import telemetry

with exporting(), telemetry.run("benchmark") as run, run.stage("denoise", steps=1000) as stage:
    for number in range(1000):
        time.sleep(0.02)
        stage.step(None)
        print(time.time(), flush=True)
"""


def typical_run() -> RunReport:
    """A report with six stages, 50 denoising steps and 21 decoder steps."""
    history = telemetry.History()
    with telemetry.run(
        "wan2.1-t2v",
        params={"prompt": "a paper boat " * 20, "height": 720},
        bus=telemetry.Bus(),
        history=history,
    ) as run:
        for name, steps in STAGES:
            with run.stage(name, steps=steps) as stage:
                for _ in range(steps):
                    stage.step(None)
    return run.report


def fill(folder: Path) -> Path:
    """A history of ten thousand runs; its file."""
    run = typical_run()
    with RunLog(folder) as log:
        for first in range(0, RUNS, 500):
            log.write(
                [
                    dataclasses.replace(run, run_id=f"{n:032x}", started_unix_seconds=1e9 + 60.0 * n)
                    for n in range(first, first + 500)
                ]
            )
        return log.path


def timed(command: list[str], environ: dict[str, str]) -> Callable[[], float]:
    """Wall seconds of the command, from its start to its end."""

    def run() -> float:
        began = time.perf_counter()
        subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    return run


def list_against_sqlite(folder: Path, rounds: int = 9) -> tuple[Figure, Figure]:
    """`runs list` of ten thousand runs, beside Python with sqlite3 alone, and beside the target."""
    path = fill(folder)
    environ = {**os.environ, "CRYSTOOLS_TPU_DATA_DIR": str(folder)}
    ours, peer = alternate(
        [
            timed([sys.executable, "-m", "crystools_tpu", "runs", "list"], environ),
            timed([sys.executable, "-c", _PEER.format(query=_NEWEST), str(path)], environ),
        ],
        rounds,
    )
    return (
        Figure("runs list of 10,000 / its target", ours, LIST_SECONDS, "s", 1.0),
        Figure("runs list of 10,000 / Python's sqlite3 asked for the same rows", ours, peer, "s", None),
    )


def step_with_history_against_without(folder: Path, count: int = 2000, rounds: int = 9) -> Figure:
    """CPU seconds in the host's thread of one step, with the history written and without."""
    from crystools_exporters.run_log_writer import RunLogWriter

    def contender(*, kept: bool) -> float:
        bus, history = telemetry.Bus(), telemetry.History()
        writer = RunLogWriter(lambda: RunLog(folder), bus=bus, history=history) if kept else None
        with telemetry.run("benchmark", bus=bus, history=history) as run, run.stage("denoise") as stage:
            start = time.thread_time()
            for _ in range(count):
                stage.step(None)
            seconds = time.thread_time() - start
        if writer is not None:
            writer.close()
        return seconds / count

    ours, peer = alternate([lambda: contender(kept=True), lambda: contender(kept=False)], rounds)
    return Figure("step with its history kept / without", ours, peer, "s CPU", None)


def lost_seconds(folder: Path, seconds: float) -> float:
    """What a run loses that is killed so long after its first step."""
    environ = {**os.environ, "CRYSTOOLS_TPU_DATA_DIR": str(folder)}
    command = [sys.executable, "-c", _RUN]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        done_at = [float(child.stdout.readline())]
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().splitlines(keepends=True)
    done_at += [float(line) for line in lines if line.endswith("\n")]
    with RunLog(folder) as log:
        (run,) = log.page(10)
    kept = len(run.stages[0].steps) if run.stages else 0
    return done_at[-1] - done_at[kept - 1] if 0 < kept <= len(done_at) else 0.0


def kills(folder: Path) -> dict[str, float]:
    """Fifty runs killed at random moments within their first three seconds."""
    moments = [random.Random(number).uniform(0, 3) for number in range(KILLS)]
    with ThreadPoolExecutor(5) as pool:
        lost = list(pool.map(lost_seconds, [folder / str(n) for n in range(KILLS)], moments))
    return {"killed_runs": KILLS, "most_lost_seconds": max(lost), "mean_lost_seconds": sum(lost) / len(lost)}


def main() -> None:
    """Measures, prints, and writes the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        figures = [*list_against_sqlite(root / "list"), step_with_history_against_without(root / "steps")]
        lost = kills(root / "kills")
    for figure in figures:
        print(
            f"{figure.name}: {figure.ours:.3g} / {figure.peer:.3g} {figure.unit} = {figure.ratio:.3f}"
            f"  ({figure.verdict})"
        )
    print(
        f"{KILLS} runs killed: {lost['most_lost_seconds']:.2f} s lost at most, "
        f"{lost['mean_lost_seconds']:.2f} s on average"
    )
    if arguments.json:
        result: dict[str, Any] = {
            "machine": machine(),
            "figures": [{**dataclasses.asdict(figure), "ratio": figure.ratio} for figure in figures],
            **lost,
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
