"""The machine itself, through psutil: CPU, memory and disks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from crystools_tpu.sources.base import DiskReading, HostReading, Reading

_IMAGES: Final = frozenset({"squashfs", "iso9660", "udf", "erofs"})
"""File systems that are images: always full, and nobody can free anything on them."""


class HostSource:
    """CPU, memory and disks. Memory used is what `free` would not give back (total less available).

    `disks` are the mount points to report; None stands for every local disk, each device once.
    """

    name: Final = "host"

    def __init__(self, *, disks: Sequence[str] | None = None) -> None:
        self._cpu_seconds: tuple[float, float] | None = None
        self._cpu_ratio: float | None = None
        self.disks = disks

    @property
    def disks(self) -> tuple[str, ...] | None:
        """The mount points to report, or None for every local disk. Raises `ValueError` when set amiss."""
        return self._disks

    @disks.setter
    def disks(self, disks: Sequence[str] | None) -> None:
        self._disks = check_disks(disks)

    def read(self) -> Reading:
        """CPU since the last read (None at the first), memory and disks now."""
        memory = psutil.virtual_memory()
        mounts = local_disks() if self._disks is None else self._disks
        return Reading(
            host=HostReading(
                cpu_utilization_ratio=self._cpu_utilization(),
                memory_used_bytes=memory.total - memory.available,
                memory_total_bytes=memory.total,
                disks=tuple(disk for mount in mounts if (disk := _read_disk(mount)) is not None),
            )
        )

    def close(self) -> None:
        """Nothing to let go of."""

    def _cpu_utilization(self) -> float | None:
        # Deltas of our own: psutil.cpu_percent keeps its last reading for the whole process.
        times = psutil.cpu_times()
        # On Linux, guest time is counted in user and nice already.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        if self._cpu_seconds is not None and total > self._cpu_seconds[0]:
            last_total, last_idle = self._cpu_seconds
            busy = 1.0 - (idle - last_idle) / (total - last_total)
            self._cpu_ratio = min(max(busy, 0.0), 1.0)
        self._cpu_seconds = (total, idle)
        return self._cpu_ratio


def check_disks(disks: Sequence[str] | None) -> tuple[str, ...] | None:
    """The mount points if each is one of `mounts()`. Raises `ValueError` naming the first that is not."""
    if disks is None:
        return None
    known = mounts()
    for disk in disks:
        if disk not in known:
            raise ValueError(f"disks: {disk!r} is not a local file system; those are {', '.join(known)}")
    return tuple(dict.fromkeys(disks))


def mounts() -> tuple[str, ...]:
    """Every local file system that has a size, memory-backed ones (`/dev/shm`) included.

    Those of a network are left out: asking them for their size may hang.
    """
    local = {part.mountpoint for part in psutil.disk_partitions(all=False)}
    in_memory = {part.mountpoint for part in psutil.disk_partitions(all=True) if part.fstype == "tmpfs"}
    return tuple(mount for mount in sorted({"/", *local, *in_memory}) if _read_disk(mount) is not None)


def local_disks() -> tuple[str, ...]:
    """The root and the local disks, each device once, by its shortest mount point."""
    parts = [part for part in psutil.disk_partitions(all=False) if part.fstype not in _IMAGES]
    # Containers mount single files (/etc/hosts) from the host's disk: no disk of theirs.
    candidates = ["/", *sorted((part.mountpoint for part in parts), key=len)]
    devices: dict[int, str] = {}
    for mount in candidates:
        path = Path(mount)
        try:
            if path.is_dir():
                devices.setdefault(path.stat().st_dev, mount)
        except OSError:
            continue
    return tuple(devices.values())


def _read_disk(mount: str) -> DiskReading | None:
    """One file system, None if it is gone, refuses to tell, or has no size (`/proc`)."""
    try:
        usage = psutil.disk_usage(mount)
    except OSError:
        return None
    return DiskReading(mount, usage.used, usage.total) if usage.total > 0 else None
