"""`crystools-tpu comfyui`: makes the installed package a node pack of a ComfyUI, or takes it out again."""

from __future__ import annotations

import argparse
from pathlib import Path

from crystools_tpu.cli.errors import CommandError
from crystools_tpu.cli.help import add_command


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "comfyui",
        "add this package to a ComfyUI, or remove it from there",
        ("the nodes and the panel are there once ComfyUI is restarted", "comfyui install ~/ComfyUI"),
        ("and gone again", "comfyui remove ~/ComfyUI"),
    )
    parser.add_argument("action", choices=("install", "remove"))
    parser.add_argument("dir", type=Path, metavar="DIR", help="ComfyUI's folder: the one with custom_nodes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes or removes the node pack's folder, and says which."""
    from crystools_tpu.comfyui import node_folder

    try:
        if arguments.action == "install":
            done = f"installed {node_folder.install(arguments.dir)}"
        else:
            done = f"removed {node_folder.remove(arguments.dir)}"
    except (node_folder.NodeFolderError, OSError) as error:
        raise CommandError(str(error)) from None
    print(f"{done}; restart ComfyUI")
