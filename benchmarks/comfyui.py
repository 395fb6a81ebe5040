"""What a followed workflow costs: `python -m benchmarks.comfyui [--rounds N] [--json FILE]`.

In the real ComfyUI of `COMFYUI_DIR`, run by `COMFYUI_PYTHON`, prompts of 200 nodes that do nothing are
executed in turns, followed and with ComfyUI's own method in the place of ours, all in one process and with no
browser. Such a prompt takes a tenth of a second and varies by a tenth of that: its time followed and not says
little of one percent. What is held to that is the time in our own calls, counted in followed prompts.

When a prompt has ended a thread makes stages of what was last told. One by itself does not wait for that; the
next one in a row shares the interpreter with it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.telemetry import Figure, machine
from tests.rigs.comfyui import running_comfyui

NODES = 200
ROW = 10
IN_A_ROW = 10
ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 120.0


@dataclass
class Server:
    """A ComfyUI with our pack and the benchmark's."""

    url: str

    def ask(self, path: str, body: Any = None) -> Any:
        """GET without a body, POST with one."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def execute(self, values: list[int]) -> list[list[float]]:
        """Queues prompts that differ in their values; what was measured of each, once all have ended."""
        for value in values:
            self.ask("/prompt", {"prompt": prompt(value)})
        taken: list[list[float]] = []
        ends = time.monotonic() + PATIENCE_SECONDS
        while len(taken) < len(values):
            if time.monotonic() > ends:
                raise TimeoutError(f"{len(values)} prompts took longer than {PATIENCE_SECONDS} s")
            time.sleep(0.05)
            taken += self.ask("/benchmark/measured", {})["prompts"]
        time.sleep(0.5)  # what follows the last is done
        return taken


def prompt(value: int) -> dict[str, Any]:
    """Rows of nodes. In one long row ComfyUI itself takes a second or two, to tell what is cached."""
    nodes: dict[str, Any] = {}
    for number in range(NODES):
        place = number % ROW
        class_type = "BenchmarkTrivial" if place < ROW - 1 else "BenchmarkEnd"
        given = value * NODES + number if place == 0 else [str(number - 1), 0]
        nodes[str(number)] = {"class_type": class_type, "inputs": {"value": given}}
    return nodes


def figures(server: Server, rounds: int) -> list[Figure]:
    """A prompt by itself, and several in a row, while what is left of one is done during the next."""
    values = itertools.count()
    alone: dict[bool, list[list[float]]] = {True: [], False: []}
    in_a_row: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds + 1):
        for followed in (True, False) if number % 2 else (False, True):
            server.ask("/benchmark/follow", followed)
            (single,) = server.execute([next(values)])
            if number:  # the first only warms up
                alone[followed].append(single)
            if number % 4 == 1:
                many = server.execute([next(values) for _ in range(IN_A_ROW)])
                in_a_row[followed].append(sum(each[0] for each in many) / IN_A_ROW)
    server.ask("/benchmark/follow", True)
    server.ask("/benchmark/count", {})
    counted = [server.execute([next(values)])[0] for _ in range(rounds)]
    whole, ours = (statistics.median(each[at] for each in counted) for at in (0, 3))

    def figure(name: str, measured: dict[bool, list[float]], unit: str) -> Figure:
        return Figure(name, statistics.median(measured[True]), statistics.median(measured[False]), unit, None)

    def of(clock: int) -> dict[bool, list[float]]:
        return {followed: [each[clock] for each in alone[followed]] for followed in alone}

    return [
        Figure(f"a prompt of {NODES} nodes, with our calls / without", whole, whole - ours, "s", 1.01),
        figure("a prompt, followed / not", of(0), "s"),
        figure("the same, its thread alone", of(1), "s CPU"),
        figure(f"each of {IN_A_ROW} in a row, followed / not", in_a_row, "s"),
    ]


def main() -> None:
    """Measures all, prints them, and writes them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args()
    if (checkout := os.environ.get("COMFYUI_DIR")) is None:
        sys.exit("COMFYUI_DIR is not set: give a checkout of ComfyUI, and COMFYUI_PYTHON to run it")
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    packs = {"crystools-tpu": ROOT, "benchmark": Path(__file__).with_name("comfyui_pack")}
    with tempfile.TemporaryDirectory() as folder:
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environ["CRYSTOOLS_TPU_DATA_DIR"] = f"{folder}/data"
        with running_comfyui(
            Path(folder), packs, checkout=Path(checkout), python=python, environ=environ
        ) as started:
            server = Server(started.url)
            measured = figures(server, arguments.rounds)
            samples = server.ask("/crystools-tpu/api/health")["samples_total"]
    for figure in measured:
        print(
            f"{figure.name:<50} {figure.ours:.4g} / {figure.peer:.4g} {figure.unit} = {figure.ratio:.4f}"
            f"  ({figure.verdict})"
        )
    print(f"{'samples while nobody looks':<50} {samples}  (target 0: {'met' if samples == 0 else 'MISSED'})")
    if arguments.json is not None:
        rows = [{**asdict(figure), "ratio": figure.ratio} for figure in measured]
        result = {"machine": machine(), "figures": rows, "samples_while_nobody_looks": samples}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
