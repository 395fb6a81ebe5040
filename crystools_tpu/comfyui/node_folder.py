"""The node pack of who installed with pip: a folder in `custom_nodes/` that imports the installed package.

Its workflows are copies: ComfyUI shows as Templates what lies in the folder itself.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

NAME: Final = "crystools-tpu"

_WORKFLOWS: Final = "example_workflows"
_MARK: Final = "Written by `crystools-tpu comfyui install`"

_INIT: Final = f'''"""{_MARK}, taken away by `crystools-tpu comfyui remove`."""

import sys
from pathlib import Path

try:
    import crystools_tpu
except ModuleNotFoundError as error:
    raise ImportError(
        f"crystools-tpu is not installed where ComfyUI runs: {{sys.executable}} -m pip install "
        f"'crystools-tpu[comfyui]', or remove {{Path(__file__).parent}}"
    ) from error

try:
    from crystools_tpu import comfyui
except Exception as error:
    from crystools_tpu.imports import import_failure

    if (failure := import_failure(error)) is None:
        raise
    cure = failure.cure(f"{{sys.executable}} -m pip install 'crystools-tpu[comfyui]'")
    raise ImportError(f"crystools-tpu cannot be loaded: {{failure.reason}}: {{cure}}") from error

NODE_CLASS_MAPPINGS = comfyui.NODE_CLASS_MAPPINGS
NODE_DISPLAY_NAME_MAPPINGS = comfyui.NODE_DISPLAY_NAME_MAPPINGS
WEB_DIRECTORY = comfyui.attach(Path(__file__).parent)
'''


class NodeFolderError(Exception):
    """The folder can be neither written nor removed. The message says why and what would help."""


def install(comfyui: Path) -> Path:
    """Writes the folder into this ComfyUI, anew where it is there already; its path."""
    folder = _folder_of_ours(comfyui)
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(_INIT)
    shutil.copytree(_workflows(), folder / _WORKFLOWS, dirs_exist_ok=True)
    return folder


def remove(comfyui: Path) -> Path:
    """Removes what `install` wrote; its path."""
    folder = _folder_of_ours(comfyui)
    if not folder.exists():
        raise NodeFolderError(f"{folder} does not exist: nothing is installed there")
    shutil.rmtree(folder)
    return folder


def _folder_of_ours(comfyui: Path) -> Path:
    """Where the folder is or would be. Raises NodeFolderError for what is no ComfyUI or no folder of ours."""
    custom_nodes = comfyui / "custom_nodes"
    if not custom_nodes.is_dir():
        raise NodeFolderError(f"{comfyui} has no folder custom_nodes: give the folder of ComfyUI")
    folder = custom_nodes / NAME
    init = folder / "__init__.py"
    is_ours = init.is_file() and _MARK in init.read_text()
    if folder.is_symlink() or (folder.exists() and not is_ours):
        raise NodeFolderError(f"{folder} was not written by `install` (a clone needs none): it is left alone")
    return folder


def _workflows() -> Path:
    """Where a wheel puts them, or where they are in a checkout."""
    packed = Path(__file__).with_name(_WORKFLOWS)
    return packed if packed.is_dir() else Path(__file__).parents[2] / _WORKFLOWS
