"""The environment variables that are this project's own, with what the documents say of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DATA_DIR: Final = "CRYSTOOLS_TPU_DATA_DIR"
HISTORY: Final = "CRYSTOOLS_TPU_HISTORY"
DISKS: Final = "CRYSTOOLS_TPU_DISKS"
SIMULATE: Final = "CRYSTOOLS_TPU_SIMULATE"

VARIABLES: Final[Mapping[str, str]] = {
    DATA_DIR: (
        "the data directory; else `crystools-tpu` in `$XDG_DATA_HOME`, which is `~/.local/share` by default"
    ),
    HISTORY: (
        "`off` keeps no history; `90d,1GiB` (the default) keeps runs that long and no more than that, "
        "the oldest going first when a process starts to write"
    ),
    DISKS: (
        "the mount points to read instead, separated by `:` as in `PATH`: `/:/mnt/bucket`. NFS, SMB, "
        "9p (WSL's drives), virtiofs, Lustre, FUSE (gcsfuse, s3fs) and memory are possible too. One that is "
        "not mounted yet is shown once it is"
    ),
    SIMULATE: (
        "a machine that ComfyUI shows in place of this one, such as `v6e-8`, of up to 256 chips (`v6e-256`); "
        "every surface marks it as simulated"
    ),
}
