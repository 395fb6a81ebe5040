"""A child process that does one call after another, and can be killed in the middle of one.

Compilers take their settings from the environment when they are loaded, and do not listen to Ctrl-C.
"""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Thread
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ProcessDiedError(RuntimeError):
    """The child is gone, and with it the answer; mostly the machine's memory did not suffice."""


class ChildProcess(AbstractContextManager["ChildProcess"]):
    """A child with this environment beside its parent's. It ends with the context, whatever it does."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._stderr = NamedTemporaryFile(prefix="crystools-tpu-")  # noqa: SIM115 closed by `kill`
        args = (theirs, dict(environment), self._stderr.name)
        self._process = context.Process(target=_serve, args=args, daemon=True)
        self._process.start()
        theirs.close()

    def __exit__(self, *error: object) -> None:
        self.kill()

    def call(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """`function(*args, **kwargs)` in the child: a module's function, and what it raises is raised here.

        Raises ProcessDiedError where the child ends before it has an answer.
        """
        try:
            self._connection.send((function, args, kwargs))
            error, result = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            stderr = self._stderr.read().decode(errors="replace").strip()
            raise ProcessDiedError(
                f"the child ended with {self._process.exitcode}; it said: {stderr}"
            ) from None
        if error is not None:
            raise error
        answer: Result = result
        return answer

    def kill(self) -> None:
        """Ends the child at once. Once is enough; twice is allowed."""
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._stderr.close()


def _serve(connection: Connection, environment: dict[str, str], stderr: str) -> None:
    with Path(stderr).open("ab") as file:
        os.dup2(file.fileno(), 2)  # libtpu writes there what is no error
    os.environ.update(environment)  # before a call's function brings its imports
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C and its like are the parent's, which kills
    Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:
            return
        answer: tuple[BaseException | None, Any]
        try:
            answer = None, function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 the parent raises it
            answer = error, None
        connection.send(answer)


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
