"""A child process that is spoken to in lines, and that can be waited for with a deadline."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence


class Child:
    """Starts `command` with pipes to its standard input and output. Its standard error is dropped."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._received = b""

    def send(self) -> None:
        """Sends an empty line. A child that is gone is found out by `receive`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"\n")
        except BrokenPipeError:
            return

    def receive(self, timeout_seconds: float) -> bytes | None:
        """The next line, None if none comes in time. Raises `EOFError` when the child has ended."""
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        ends = time.monotonic() + timeout_seconds
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        while b"\n" not in self._received:
            remaining = ends - time.monotonic()
            if remaining <= 0 or not poll.poll(remaining * 1000):
                return None
            chunk = os.read(stdout, 65536)
            if not chunk:
                raise EOFError
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def kill(self) -> None:
        """Kills the child, whatever it is doing, and reaps it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
