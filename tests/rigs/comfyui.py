"""A real ComfyUI, started from a checkout, with the node packs that it is given and no others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.rigs.ports import free_port

START_SECONDS: Final = 180.0
_STARTED: Final = "To see the GUI go to"


@dataclass(frozen=True)
class RunningComfyUI:
    """Where it answers, what it logs, and its process."""

    url: str
    log_file: Path
    process_id: int


@contextlib.contextmanager
def running_comfyui(
    base: Path,
    packs: Mapping[str, Path],
    *,
    checkout: Path,
    python: str,
    arguments: Sequence[str] = (),
    cpu: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[RunningComfyUI]:
    """ComfyUI on the `cpu`, or what it finds, and a free port, for as long as the block lasts.

    `base` takes its models, inputs, outputs, settings and log, and links to `packs`, by their names in
    custom_nodes. `python` is one with ComfyUI's requirements and the packs'. Raises RuntimeError with the log
    if it ends, or TimeoutError if it takes longer than START_SECONDS.
    """
    nodes = base / "custom_nodes"
    nodes.mkdir()
    for name, folder in packs.items():
        (nodes / name).symlink_to(folder)
    port = free_port()
    device = ["--cpu"] if cpu else []
    where = ["--port", str(port), "--base-directory", str(base)]
    command = [python, "main.py", *device, *where, *arguments]
    log_file = base / "log"
    with log_file.open("w") as log:
        process = subprocess.Popen(command, cwd=checkout, env=environ, stdout=log, stderr=log)
    try:
        _wait_for_start(process, log_file)
        yield RunningComfyUI(f"http://127.0.0.1:{port}", log_file, process.pid)
    finally:
        process.kill()
        process.wait()


def _wait_for_start(process: subprocess.Popen[bytes], log_file: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while _STARTED not in (log := log_file.read_text()):
        if process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended while it started:\n{log}")
        if time.monotonic() > ends:
            raise TimeoutError(f"ComfyUI did not start within {START_SECONDS} s:\n{log}")
        time.sleep(0.1)
