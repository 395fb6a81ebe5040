"""Where this user's own data is kept: the history of runs and the profiles; and what can be made again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DATA_DIR: Final = "CRYSTOOLS_TPU_DATA_DIR"
"""The environment variable that names the folder."""

PROFILES: Final = "profiles"
"""Where in it the captures of jax's profiler are."""


FRAMES: Final = "frames"
"""Where in it frames are that could not be saved where they were wanted."""


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$CRYSTOOLS_TPU_DATA_DIR`, or `crystools-tpu` in `$XDG_DATA_HOME`, by default `~/.local/share`."""
    if chosen := environ.get(DATA_DIR):
        return Path(chosen)
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "crystools-tpu"


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """For what may be deleted at any time: `crystools-tpu` in `$XDG_CACHE_HOME`, by default `~/.cache`."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "crystools-tpu"
