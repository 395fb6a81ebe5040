"""What ends a command with one line instead of a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from crystools_tpu.bounds import warn_of_what_is_out_of_bounds


class CommandError(Exception):
    """The command cannot do what was asked; the message names the option and the remedy."""

    exit_status = 2


class CheckFailed(CommandError):
    """The command did what was asked, and found what it was to fail on."""

    exit_status = 1


@contextlib.contextmanager
def needs_pipelines() -> Iterator[None]:
    """Says what to install where an import within the block finds a package missing.

    Before it, what is installed but not what this was run with.
    """
    warn_of_what_is_out_of_bounds()
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: pip install 'crystools-tpu[pipelines]'") from None
