"""Who uses TPU chips of which no runtime gives figures, as far as this user may see. Opens no device."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crystools_tpu.sources.base import ChipUser
from crystools_tpu.sources.tpu_discovery import FoundChip
from crystools_tpu.telemetry.text import safe_text

PROC: Final = Path("/proc")
LOOK_SECONDS: Final = 5.0
"""All processes are looked through no more often."""

_ACCEL: Final = re.compile(r"/dev/accel\d+")


@dataclass(frozen=True, slots=True)
class Use:
    """The processes that hold the chips, since when, and whether any other would have been seen."""

    users: tuple[ChipUser, ...]
    everybody: bool
    seconds: float = 0.0


class ChipUsers:
    """Looks who uses the chips, when asked.

    That nobody does is certain where the kernel says that no chip is open, and where every process of the
    machine could be looked into. Another user's processes and, from within a container, those beside it can
    not.
    """

    def __init__(self, proc: Path = PROC, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._monotonic = monotonic
        self._seen: Use | None = None
        self._looked_at = 0.0
        self._held_since: float | None = None

    def look(self, chips: Sequence[FoundChip]) -> Use:
        """The use of these chips, not older than `LOOK_SECONDS`; `seconds` is how long it has been seen."""
        now = self._monotonic()
        if all(chip.unopened for chip in chips):
            self.forget()
            return Use((), everybody=True)
        if self._seen is None or now - self._looked_at >= LOOK_SECONDS:
            self._seen, self._looked_at = _look_through(self._proc, chips), now
        if not self._seen.users:
            self._held_since = None
            return self._seen
        if self._held_since is None:
            self._held_since = now
        return Use(self._seen.users, self._seen.everybody, now - self._held_since)

    def forget(self) -> None:
        """What was seen is no longer so."""
        self._seen = self._held_since = None


def _look_through(proc: Path, chips: Sequence[FoundChip]) -> Use:
    nodes = {f"/dev/vfio/{group}" for chip in chips for group in chip.iommu_groups}
    users: list[ChipUser] = []
    everybody = _is_whole_machine(proc)
    for process in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            with os.scandir(process / "fd") as fds:
                holds = any(_is_chip(fd, nodes) for fd in fds)
            if holds:
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                users.append(ChipUser(int(process.name), safe_text(name)))
        except PermissionError:
            everybody = False
        except OSError:
            continue  # it has ended
    return Use(tuple(users), everybody)


def _is_chip(fd: os.DirEntry[str], nodes: set[str]) -> bool:
    try:
        target = str(Path(fd.path).readlink())
    except FileNotFoundError:  # closed meanwhile
        return False
    return target in nodes or _ACCEL.fullmatch(target) is not None


def _is_whole_machine(proc: Path) -> bool:
    """Whether the processes of the whole machine are listed: the kernel's own are in no container."""
    try:
        return (proc / "2/comm").read_text(encoding="utf-8").strip() == "kthreadd"
    except OSError:
        return False
