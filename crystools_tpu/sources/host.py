"""The machine itself: CPU, memory and disks, within the limits of the container."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from crystools_tpu.sources.base import HostReading, Reading
from crystools_tpu.sources.cgroup import ControlGroups, CpuLimit
from crystools_tpu.sources.disks import Disks, Usage, chosen_disks


class HostSource:
    """CPU, memory and disks. Memory used is what `free` would not give back (total less available).

    Where a control group (a container, a service) is given less than the machine has, CPU and memory are
    that group's, as shares of its limits, and the machine's totals stand beside them. `disks` are the mount
    points to report; None stands for those that `CRYSTOOLS_TPU_DISKS` names, else for every local disk, each
    once. `root` is where the machine's `/` is.
    """

    name: Final = "host"

    def __init__(
        self,
        *,
        disks: Sequence[str] | None = None,
        environ: Mapping[str, str] = os.environ,
        root: Path = Path("/"),
        usage: Usage = psutil.disk_usage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disks = Disks(chosen_disks(environ) if disks is None else disks, root=root, usage=usage)
        self._root = root
        self._clock = clock
        self._cpu_seconds: tuple[object, float, float] | None = None
        self._cpu_ratio: float | None = None

    def read(self) -> Reading:
        """CPU since the last read (None at the first), memory and disks now."""
        memory = psutil.virtual_memory()
        limit = self._groups.memory(memory.total)
        cpu = self._groups.cpu(self._machine_cpus)
        return Reading(
            host=HostReading(
                cpu_utilization_ratio=self._cpu_utilization(cpu),
                memory_used_bytes=memory.total - memory.available if limit is None else limit.used_bytes,
                memory_total_bytes=memory.total if limit is None else limit.total_bytes,
                disks=self._disks.read(),
                cpu_count=(float(self._machine_cpus) or None) if cpu is None else cpu.cpus,
                machine_cpu_count=self._machine_cpus or None,
                machine_memory_bytes=memory.total,
            )
        )

    def close(self) -> None:
        """Nothing to let go of."""

    @functools.cached_property
    def _groups(self) -> ControlGroups:
        return ControlGroups(self._root)

    @functools.cached_property
    def _machine_cpus(self) -> int:
        """0 where they are not told one by one. (psutil.cpu_count may be the container's.)"""
        return len(psutil.cpu_times(percpu=True))

    def _cpu_utilization(self, limit: CpuLimit | None) -> float | None:
        """The busy share since the last read, 0..1; None where that was of another limit."""
        if limit is None:
            counted: object = None
            busy, total = _machine_cpu_seconds()
        else:
            counted = (limit.group, limit.cpus)
            busy, total = limit.used_seconds, self._clock() * limit.cpus
        last, self._cpu_seconds = self._cpu_seconds, (counted, busy, total)
        if last is None or last[0] != counted:
            self._cpu_ratio = None
        elif total > last[2]:
            self._cpu_ratio = min(max((busy - last[1]) / (total - last[2]), 0.0), 1.0)
        return self._cpu_ratio


def _machine_cpu_seconds() -> tuple[float, float]:
    """Seconds busy, and in all. Counters of our own: psutil.cpu_percent keeps its last for all callers."""
    times = psutil.cpu_times()
    # On Linux, guest time is counted in user and nice already.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total
