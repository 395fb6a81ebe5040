"""The boundary between what watches and what is watched: what fails on this side goes no further."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from crystools_tpu.telemetry.text import describe_error

_Known = TypeVar("_Known")


class Guard:
    """Takes in what watching raises, as a warning the first time and in silence from then on.

        with guard("the devices' memory could not be read"):
            ...

    The traceback is logged for who debugs. Each run, thread or connection has a guard of its own, so that of
    the next one it is said anew. Ctrl-C, and what else is no `Exception`, passes.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._blocks: dict[str, _Block] = {}

    def __call__(self, what: str) -> _Block:
        """A block that its error does not leave; `what` says what cannot be done then."""
        block = self._blocks.get(what)
        return block if block is not None else self._blocks.setdefault(what, _Block(what, self._logger))

    def failed(self, what: str, error: Exception) -> None:
        """Takes in an error that was caught elsewhere."""
        self(what).failed(error)

    def known(self, name: str, value: Any, read: Callable[[Any], _Known]) -> _Known | None:
        """The value as `read` gives it; None where there is none, or `read` raises: then it is left out."""
        if value is None:
            return None
        with self(f"{name} is left out"):
            return read(value)
        return None


class _Block:
    __slots__ = ("_logger", "_said", "_what")

    def __init__(self, what: str, logger: logging.Logger) -> None:
        self._what = what
        self._logger = logger
        self._said = False

    def failed(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            self._logger.warning("%s: %s", self._what, describe_error(error))
            self._logger.debug("%s", self._what, exc_info=error)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.failed(error)
        return True
