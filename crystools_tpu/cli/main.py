"""Parses the command line, runs the command, and turns its end into an exit status.

0: done. 1: the work failed (with a traceback), a check, or the output. 2: what was asked cannot be done.
130: Ctrl-C. 141: whoever read the output has gone.
"""

from __future__ import annotations

import argparse
import getpass
import logging
import os
import sys
from collections.abc import MutableMapping, Sequence

from crystools_tpu import __version__
from crystools_tpu.cli import comfyui, demo, generate, plan, runs, serve, tiny_checkpoint, trace
from crystools_tpu.cli.console import printed
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.data_dir import home


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `run`, which takes the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="crystools-tpu", description="The instrument panel for generative video and images on TPUs."
    )
    parser.add_argument("--version", action="version", version=f"crystools-tpu {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (comfyui, demo, generate, plan, runs, serve, tiny_checkpoint, trace):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status."""
    return printed(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    _know_the_user(os.environ)
    try:
        arguments.run(arguments)
    except CommandError as error:
        print(f"crystools-tpu: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("crystools-tpu: cancelled", file=sys.stderr)
        return 130
    return 0


def _know_the_user(environ: MutableMapping[str, str]) -> None:
    """Libraries ask for the user's home and name as they are imported; containers may have neither."""
    if not environ.get("HOME"):
        environ["HOME"] = str(home(environ))
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        environ["USER"] = f"uid{os.getuid()}" if hasattr(os, "getuid") else "user"
