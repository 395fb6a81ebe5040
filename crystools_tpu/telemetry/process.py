"""Which process a run is of: its number, its user, and what it was started as."""

from __future__ import annotations

import functools
import getpass
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from crystools_tpu.telemetry.events import Process
from crystools_tpu.telemetry.guard import Guard

_OURS: Final = ("crystools-tpu", "crystools_tpu")


def own_process(guard: Guard) -> Process | None:
    """This process, which is looked at once; a fork of it is another."""
    with guard("the process could not be described"):
        return _described(os.getpid())
    return None


def started_as(argv: Sequence[str], modules: Mapping[str, Any]) -> str | None:
    """What a process is to its user: `generate`, `ComfyUI`, `notebook`, `train.py`, `python -c`.

    `argv` is its `sys.argv`, and `modules` are those that it has loaded.
    """
    if "comfy" in modules and hasattr(modules.get("server"), "PromptServer"):
        return "ComfyUI"
    if "ipykernel" in modules:
        return "notebook"
    if not argv:
        return None
    spec = getattr(modules.get("__main__"), "__spec__", None)  # of `python -m` alone
    module = spec.name.removesuffix(".__main__") if spec is not None else ""
    if module in _OURS or Path(argv[0]).stem in _OURS:
        return next((word for word in argv[1:] if not word.startswith("-")), _OURS[0])
    if argv[0] == "-c":
        return "python -c"
    return module or Path(argv[0]).name.lstrip("-") or "python"


@functools.cache
def _described(pid: int) -> Process:
    return Process(pid, _user(), started_as(getattr(sys, "argv", ()), sys.modules))


def _user() -> str | None:
    """By the environment if it says so: a directory service may take its time."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None
