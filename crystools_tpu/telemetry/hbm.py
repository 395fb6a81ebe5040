"""Device memory of one stage: before, peak and after, per device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from crystools_tpu.telemetry.events import HbmUsage
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.memory import DeviceMemory, device_memory

# Counting live arrays walks all of them: once a second at most, so that it costs no step its time.
_SAMPLE_SECONDS = 1.0


class HbmRecorder:
    """Samples the devices' memory when asked; what could not be read leaves no figures.

    A stage whose first or last reading failed has none: there is no telling what it began or ended with.
    """

    def __init__(self, devices: Sequence[Any], clock: Callable[[], float], guard: Guard) -> None:
        self._devices = devices
        self._clock = clock
        self._guard = guard
        self._sampled_at = clock()
        self._names: tuple[str, ...] = ()
        with guard("the devices could not be named"):
            self._names = tuple(f"{device.platform}:{device.id}" for device in devices)
        self._first = self._last = self._read()
        self._largest = [memory.used_bytes for memory in self._first]

    def sample(self, *, now: bool = False) -> None:
        """Takes a sample, if the last one is old enough or `now` is set."""
        if not self._first or (not now and self._clock() - self._sampled_at < _SAMPLE_SECONDS):
            return
        self._sampled_at = self._clock()
        read = self._read()
        if [memory.method for memory in read] == [memory.method for memory in self._first]:
            self._last = read
            self._largest = [
                max(largest, memory.used_bytes) for largest, memory in zip(self._largest, read, strict=True)
            ]
        elif now:
            self._last = ()

    def usage(self) -> tuple[HbmUsage, ...]:
        """What is known so far, one entry a device."""
        return tuple(map(_usage, self._names, self._first, self._largest, self._last))

    def _read(self) -> tuple[DeviceMemory, ...]:
        """An array may be deleted while it is looked at, or a device be gone."""
        with self._guard("the devices' memory could not be read"):
            return device_memory(self._devices)
        return ()


def _usage(device: str, before: DeviceMemory, largest: int, after: DeviceMemory) -> HbmUsage:
    method: str = before.method
    if before.method == "memory_stats":
        rose = (after.peak_bytes or 0) > (before.peak_bytes or 0)
        largest = (after.peak_bytes or largest) if rose else largest
        method = "memory_stats" if rose else "memory_stats_sampled"
    return HbmUsage(
        device=device,
        before_bytes=before.used_bytes,
        peak_bytes=largest,
        after_bytes=after.used_bytes,
        limit_bytes=after.limit_bytes,
        method=method,  # type: ignore[arg-type]
    )
