"""`crystools-tpu tiny-checkpoint`: a tiny random checkpoint in the real format."""

from __future__ import annotations

import argparse
from pathlib import Path

from crystools_pipelines.models import MODELS
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.cli.help import add_command


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "tiny-checkpoint",
        "write a tiny random checkpoint in the real format, the same every time",
        ("for `generate`, to try it without a download", "tiny-checkpoint wan2.1-t2v tiny"),
    )
    parser.add_argument("model", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("directory", metavar="DIR", type=Path, help="a new or empty folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the checkpoint and says where."""
    from crystools_pipelines.tiny import write_tiny_checkpoint

    try:
        print(write_tiny_checkpoint(arguments.model, arguments.directory))
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from None
