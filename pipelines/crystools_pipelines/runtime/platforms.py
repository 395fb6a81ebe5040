"""Keeps jax from looking for a TPU on a machine that has no accelerator of any kind.

Where libtpu is installed, as `plan` needs it, jax asks it for a TPU first. Off a TPU libtpu then writes
warnings and an error to standard error itself, past every log, of a machine on which nothing is wrong.
"""

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import jax

# A TPU's chips (v2 to v4; since v5e by VFIO), GPUs of NVIDIA (in WSL: dxg) and of AMD.
_ACCELERATORS: Final = ("accel*", "vfio/[0-9]*", "nvidia*", "dxg", "kfd")

# By each of these somebody has told jax where to look. TPU_LIBRARY_PATH is set by libtpu itself.
_TOLD: Final = ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "PJRT_NAMES_AND_LIBRARY_PATHS")


def use_what_is_here(
    environ: Mapping[str, str] = os.environ, dev: Path = Path("/dev"), plugins: Iterable[object] | None = None
) -> None:
    """Has jax use the CPU alone where there is nothing else to be found; any doubt leaves it to jax.

    Of no effect where the user, or jax itself, which knows the chips that it sees, has said what to use.
    """
    if plugins is None:
        plugins = entry_points(group="jax_plugins")
    is_settled = jax.config.values["jax_platforms"] is not None or any(name in environ for name in _TOLD)
    if is_settled or any(plugins) or any(any(dev.glob(pattern)) for pattern in _ACCELERATORS):
        return
    jax.config.update("jax_platforms", "cpu")
