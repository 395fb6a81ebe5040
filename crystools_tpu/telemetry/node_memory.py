"""What a workflow's nodes do to memory: of this process, and of each device that jax or torch reports.

Both frameworks' own counters, in the process that uses them; neither is imported or initialised, and no
device is waited for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias

from crystools_tpu.telemetry.events import HbmUsage, HostMemory
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.memory import DeviceMemory, device_memory

if sys.platform != "win32":
    import resource

_MOST_OF_THE_TIME: Final = 1 / 1000
"""What reading memory may take of a workflow: of many quick nodes most have no figures of their own."""

_MOST_SAVED_SECONDS: Final = 0.0002
"""What may be saved of that: two readings of a GPU, so that a quick node after a slow one has figures."""

_STATM: Final = Path("/proc/self/statm")

_Method: TypeAlias = Literal["memory_stats", "torch_memory_stats"]
_SAMPLED: Final[Mapping[_Method, Any]] = {
    "memory_stats": "memory_stats_sampled",
    "torch_memory_stats": "torch_memory_stats_sampled",
}


@dataclass(frozen=True, slots=True)
class HostReading:
    """What this process holds of the host's memory, now and at most since it began, in bytes."""

    used_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One device's memory, and which framework's counter says so."""

    method: _Method
    memory: DeviceMemory


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Memory at one moment. `host` is None where the system does not tell."""

    host: HostReading | None
    devices: Mapping[str, DeviceReading]


class NodeMemory:
    """Reads memory between nodes, as often as it may cost. `modules` is `sys.modules`."""

    def __init__(
        self,
        *,
        modules: Mapping[str, ModuleType] = sys.modules,
        statm: Path = _STATM,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._modules = modules
        self._clock = clock
        self.due_at = clock()
        """When the next reading may be taken."""
        self._saved_seconds = _MOST_SAVED_SECONDS
        self._read_at = self.due_at
        self._guard = Guard(logging.getLogger(__name__))
        self._statm: int | None = None
        with contextlib.suppress(OSError):  # no Linux
            self._statm = os.open(statm, os.O_RDONLY)

    def read(self) -> MemoryReading | None:
        """Memory now; None where the readings before have cost too much for another."""
        began = self._clock()
        if began < self.due_at:
            return None
        reading = None
        with self._guard("the memory of nodes could not be read"):
            reading = MemoryReading(self._host(), dict(self._devices()))
        ended = self._clock()
        saved = min(self._saved_seconds + (began - self._read_at) * _MOST_OF_THE_TIME, _MOST_SAVED_SECONDS)
        self._saved_seconds, self._read_at = saved - (ended - began), ended
        self.due_at = ended - min(0.0, self._saved_seconds) / _MOST_OF_THE_TIME
        return reading

    def _host(self) -> HostReading | None:
        if self._statm is None or sys.platform == "win32":
            return None
        used_bytes = int(os.pread(self._statm, 128, 0).split()[1]) * resource.getpagesize()
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux has it in KiB
        return HostReading(used_bytes, max(used_bytes, peak_bytes))

    def _devices(self) -> Iterator[tuple[str, DeviceReading]]:
        yield from _torch_devices(self._modules.get("torch"))
        bridge = self._modules.get("jax._src.xla_bridge")
        if bridge is not None and bridge.backends_are_initialized():
            for device in self._modules["jax"].local_devices():
                # Without a counter of the backend's there is only counting arrays, which takes too long here.
                if device.platform != "cpu" and device.memory_stats():
                    (memory,) = device_memory([device])
                    yield f"{device.platform}:{device.id}", DeviceReading("memory_stats", memory)


def _torch_devices(torch: Any) -> Iterator[tuple[str, DeviceReading]]:
    """Each device that torch has an allocator on, by torch's own name (`cuda:0`)."""
    for name in ("cuda", "xpu"):
        backend = getattr(torch, name, None)
        if backend is None or not backend.is_initialized():
            continue
        for index in range(backend.device_count()):
            stats = backend.memory_stats(index)
            if "allocated_bytes.all.current" not in stats:  # nothing of this process is on it
                continue
            memory = DeviceMemory(
                device_id=index,
                used_bytes=stats["allocated_bytes.all.current"],
                peak_bytes=stats["allocated_bytes.all.peak"],
                limit_bytes=backend.get_device_properties(index).total_memory,
                method="memory_stats",
            )
            yield f"{name}:{index}", DeviceReading("torch_memory_stats", memory)


def host_memory(before: MemoryReading | None, after: MemoryReading | None) -> HostMemory | None:
    """What a node did to the host's memory, between two readings."""
    if before is None or after is None or before.host is None or after.host is None:
        return None
    rose = after.host.peak_bytes > before.host.peak_bytes
    largest = max(before.host.used_bytes, after.host.used_bytes)
    return HostMemory(
        before.host.used_bytes, after.host.peak_bytes if rose else largest, after.host.used_bytes
    )


def devices_memory(before: MemoryReading | None, after: MemoryReading | None) -> tuple[HbmUsage, ...]:
    """What a node did to each device's memory; of a device that came in it, from nothing on."""
    if before is None or after is None:
        return ()
    return tuple(_usage(name, before.devices.get(name), reading) for name, reading in after.devices.items())


def _usage(device: str, before: DeviceReading | None, after: DeviceReading) -> HbmUsage:
    used_before, peak_before = (before.memory.used_bytes, before.memory.peak_bytes) if before else (0, 0)
    peak = after.memory.peak_bytes
    rose = peak is not None and peak_before is not None and peak > peak_before
    return HbmUsage(
        device=device,
        before_bytes=used_before,
        peak_bytes=peak if rose and peak is not None else max(used_before, after.memory.used_bytes),
        after_bytes=after.memory.used_bytes,
        limit_bytes=after.memory.limit_bytes,
        method=after.method if rose else _SAMPLED[after.method],
    )
