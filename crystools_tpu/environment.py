"""The environment variables that are this project's own, with what the documents say of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

DATA_DIR: Final = "CRYSTOOLS_TPU_DATA_DIR"
HISTORY: Final = "CRYSTOOLS_TPU_HISTORY"
DISKS: Final = "CRYSTOOLS_TPU_DISKS"
SIMULATE: Final = "CRYSTOOLS_TPU_SIMULATE"
PRICE: Final = "CRYSTOOLS_TPU_PRICE_PER_CHIP_HOUR"

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
    PRICE: (
        "what you pay for one chip for one hour, in your own currency, such as `1.20`: page and commands "
        "then say what a run costs. None is built in"
    ),
}


def price_in(environ: Mapping[str, str]) -> float | None:
    """The price that the environment sets; None where it sets none. Raises ValueError for what is none."""
    text = environ.get(PRICE, "").strip()
    return checked_price(text) if text else None


def checked_price(given: str | float) -> float:
    """A price for one chip and one hour. Raises ValueError for anything but a number above 0."""
    try:
        price = float(given)
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price > 0):
        raise ValueError(f"{given!r} is no price: give a number above 0, such as 1.20")
    return price
