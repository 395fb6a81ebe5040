"""Which process wrote something, and whether it still runs."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Final

import psutil

# The system counts a process's start from boot, and corrects its clock meanwhile.
_SAME_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one machine; a number that the system uses again begins at another time."""

    host: str
    pid: int
    began_unix_seconds: float

    def to_text(self) -> str:
        """For `from_text`."""
        return f"{self.host} {self.pid} {self.began_unix_seconds:.2f}"

    @staticmethod
    def from_text(text: str) -> Process:
        """What `to_text` wrote."""
        host, pid, began = text.rsplit(" ", 2)
        return Process(host, int(pid), float(began))


def this_process() -> Process:
    """The one that runs this."""
    return Process(socket.gethostname(), os.getpid(), psutil.Process().create_time())


def is_alive(process: Process) -> bool:
    """Whether it still runs. A process of another machine counts as alive: nobody here can know."""
    if process.host != socket.gethostname():
        return True
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.began_unix_seconds) < _SAME_SECONDS
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
