"""What ends a command with one line instead of a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do what was asked; the message names the option and the remedy."""

    exit_status = 2


class CheckFailed(CommandError):
    """The command did what was asked, and found what it was to fail on."""

    exit_status = 1


class WorkFailed(CommandError):
    """What was asked could be done and was begun, and failed in the end."""

    exit_status = 1
