"""Which process wrote something, by what clock it counts, and whether it is certain that it is gone."""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import psutil

# One for each program that a process becomes: a ComfyUI that restarts itself keeps its number and its start.
_IMAGE: Final = secrets.token_hex(4)

# The moment of its own that a process has where the system does not say when it began.
_LOADED: Final = round(time.monotonic(), 2)

_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, as others that read the same file see it.

    `clock` names the clock of its `time.monotonic`: the boot that it counts from, the same for all containers
    of a machine; `namespace` is where its `pid` counts. Either is empty where it is not known. `began` tells
    it from an earlier process of the same number, `image` from what ran in it before.
    """

    host: str
    clock: str
    namespace: str
    image: str
    pid: int
    began: float

    def to_text(self) -> str:
        """The process as a text that `from_text` reads."""
        return f"{self.host}/{self.clock}/{self.namespace}/{self.image} {self.pid} {self.began:.2f}"

    @staticmethod
    def from_text(text: str) -> Process | None:
        """The process that `to_text` wrote; None for any other text."""
        found = re.fullmatch(r"(.*)/(.*)/(.*)/(.*) (\d+) ([\d.]+)", text)
        if found is None:
            return None
        host, clock, namespace, image, pid, began = found.groups()
        return Process(host, clock, namespace, image, int(pid), float(began))


def this_process() -> Process:
    """The process that runs this."""
    pid, host = os.getpid(), socket.gethostname()
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    if not boot:  # no Linux: the numbers are those of the whole machine
        return Process(host, "", f"host {host}", _IMAGE, pid, round(psutil.Process().create_time(), 2))
    stat = _stat(pid) if _shows_own_numbers() else None
    namespace = _inode(_PROC / "self/ns/pid") if stat is not None else None
    return Process(
        host,
        clock=f"{boot}:{_inode(_PROC / 'self/ns/time') or 0}",
        namespace=str(namespace or ""),
        image=_IMAGE,
        pid=pid,
        began=stat.began if stat is not None else _LOADED,
    )


def look_up(process: Process, own: Process) -> bool | None:
    """Whether the process still runs, where the system's list of processes says so for certain; else None.

    False: it is gone. True: it is stopped, says nothing meanwhile, and may go on.
    """
    if not own.namespace or (process.clock, process.namespace) != (own.clock, own.namespace):
        return None
    if (process.pid, process.began) == (own.pid, own.began):
        return None if process.image == own.image else False
    if not psutil.pid_exists(process.pid):
        return False
    stat = _stat(process.pid)
    if stat is None:
        return None
    if stat.began != process.began or stat.state in "ZX":
        return False
    return True if stat.state in "Tt" else None


class _Stat(NamedTuple):
    """`began` counts ticks from boot, which no change of the clock moves."""

    state: str
    began: float


def _stat(pid: int) -> _Stat | None:
    try:
        # The name, in parentheses, may have anything in it.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return _Stat(fields[0], float(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def _shows_own_numbers() -> bool:
    """Not so where the file system is that of the machine, within a container."""
    try:
        return (_PROC / "self").readlink() == Path(str(os.getpid()))
    except OSError:
        return False


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
