"""Where this user's own data is kept: the history of runs and the profiles; and what can be made again."""

from __future__ import annotations

import functools
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from crystools_tpu.environment import DATA_DIR

logger = logging.getLogger(__name__)

PROFILES: Final = "profiles"
"""The folder in the data directory for the captures of jax's profiler."""

FRAMES: Final = "frames"
"""The folder in the data directory for frames that could not be saved where they were wanted."""

TINY_MODELS: Final = "tiny-models"
"""The folder in the data directory for the tiny random checkpoints that are made where they are asked for."""

MAG_RATIOS: Final = "mag-ratios"
"""The folder in the data directory for the ratios that step caches were calibrated with."""

_NAME: Final = "crystools-tpu"


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$CRYSTOOLS_TPU_DATA_DIR`, or `crystools-tpu` in `$XDG_DATA_HOME`, by default `~/.local/share`."""
    if chosen := environ.get(DATA_DIR):
        return Path(chosen)
    return _base("XDG_DATA_HOME", ".local/share", environ) / _NAME


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for what may be deleted: `crystools-tpu` in `$XDG_CACHE_HOME`, by default `~/.cache`."""
    return _base("XDG_CACHE_HOME", ".cache", environ) / _NAME


def _base(variable: str, in_home: str, environ: Mapping[str, str]) -> Path:
    chosen = Path(environ.get(variable, ""))
    if chosen.is_absolute():  # the specification: one that is not is to be ignored
        return chosen
    return home(environ) / in_home


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's, or what stands in for it."""
    return _home(environ) or _without_home(Path(tempfile.gettempdir()))


def _home(environ: Mapping[str, str]) -> Path | None:
    """The user's, None where neither the environment nor the system's list of users has one."""
    if home := environ.get("HOME"):
        return Path(home)
    if sys.platform == "win32":
        try:
            return Path.home()
        except RuntimeError:
            return None
    import pwd  # which Windows lacks

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


@functools.cache
def _without_home(temporary: Path) -> Path:
    """A folder for this user alone in the one for temporary files. Said once.

    One of that name that is another's is none of ours: whoever can write there could give us programs to run.
    """
    folder = temporary / (_NAME if sys.platform == "win32" else f"{_NAME}-{os.getuid()}")
    try:
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        if not _is_ours_alone(folder):
            folder = Path(tempfile.mkdtemp(prefix=f"{_NAME}-", dir=temporary))
    except OSError as error:
        logger.warning("this user has no home, and %s cannot be made: %s", folder, error.strerror)
    else:
        logger.warning(
            "this user has no home: what is kept goes to %s; set HOME, or %s, to a folder that lasts",
            folder,
            DATA_DIR,
        )
    return folder


def _is_ours_alone(folder: Path) -> bool:
    if sys.platform == "win32":
        return True  # its folder for temporary files is the user's own
    status = folder.lstat()
    others = stat.S_IRWXG | stat.S_IRWXO
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & others
