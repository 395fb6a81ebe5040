"""Parses the command line, runs the command, and turns its end into an exit status.

0: done. 1: the work failed (with a traceback), a check, or the output. 2: what was asked cannot be done.
130, 143, 129: ended by Ctrl-C, SIGTERM, SIGHUP. 141: whoever read the output has gone.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import getpass
import logging
import os
import sys
from collections.abc import MutableMapping, Sequence
from typing import Final

from crystools_tpu import __version__
from crystools_tpu.bounds import warn_of_what_is_out_of_bounds
from crystools_tpu.cli import comfyui, demo, generate, plan, runs, serve, tiny_checkpoint, trace
from crystools_tpu.cli.console import printed
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.cli.help import PROGRAM, HelpFormatter, epilog
from crystools_tpu.cli.signals import ended_by_signals, exit_status
from crystools_tpu.data_dir import home
from crystools_tpu.imports import import_failure

_INSTALL: Final = "pip install 'crystools-tpu[pipelines]'"
_EXAMPLES: Final = (
    ("a tiny model makes a video, and a page shows how", "demo"),
    ("this machine and its chips, on a page", "serve"),
    ("does it fit, and how fast would it be?", "plan wan2.1-t2v --topology v6e-8"),
)
_RUN_PIPELINES: Final = ("demo", "generate", "plan", "tiny-checkpoint")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `run`, which takes the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="The instrument panel for generative video and images on TPUs.",
        epilog=epilog(f"`{PROGRAM} COMMAND --help` has the options of a command, and examples.", _EXAMPLES),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"crystools-tpu {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (comfyui, demo, generate, plan, runs, serve, tiny_checkpoint, trace):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status. Without `argv` it is the command of this process."""
    return printed(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    _know_the_user(os.environ)
    if arguments.command in _RUN_PIPELINES:
        warn_of_what_is_out_of_bounds()
    try:
        with ended_by_signals():
            arguments.run(arguments)
    except CommandError as error:
        print(f"crystools-tpu: {error}", file=sys.stderr)
        return error.exit_status
    except Exception as error:
        if (failure := import_failure(error)) is None:
            raise
        print(f"crystools-tpu: {failure.reason}: {failure.cure(_INSTALL)}", file=sys.stderr)
        return CommandError.exit_status
    except KeyboardInterrupt as error:
        with contextlib.suppress(OSError):  # nobody may be there to read it any more
            print("crystools-tpu: cancelled", file=sys.stderr)
            sys.stdout.flush()
        if argv is None:
            # jax goes on with a compile that was interrupted, and Python would wait for it at its end.
            atexit.register(os._exit, exit_status(error))
        return exit_status(error)
    return 0


def _know_the_user(environ: MutableMapping[str, str]) -> None:
    """Libraries ask for the user's home and name as they are imported; containers may have neither."""
    if not environ.get("HOME"):
        environ["HOME"] = str(home(environ))
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        environ["USER"] = f"uid{os.getuid()}" if hasattr(os, "getuid") else "user"
