"""What ends a command with one line instead of a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class CommandError(Exception):
    """The command cannot do what was asked; the message names the option and the remedy."""

    exit_status = 2


class CheckFailed(CommandError):
    """The command did what was asked, and found what it was to fail on."""

    exit_status = 1


class WorkFailed(CommandError):
    """What was asked could be done and was begun, and failed in the end."""

    exit_status = 1


@contextlib.contextmanager
def needs_pipelines() -> Iterator[None]:
    """Says what to install where an import within the block finds a package missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: pip install 'crystools-tpu[pipelines]'") from None
