"""Device memory of one stage: before, peak and after, per device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from crystools_tpu.telemetry.events import HbmUsage
from crystools_tpu.telemetry.memory import DeviceMemory, device_memory

logger = logging.getLogger(__name__)

# Counting live arrays walks all of them: once a second at most, so that it costs no step its time.
_SAMPLE_SECONDS = 1.0


class HbmRecorder:
    """Samples the devices' memory when asked; a device that cannot say leaves no figures."""

    def __init__(self, devices: Sequence[Any], clock: Callable[[], float]) -> None:
        self._devices = devices
        self._clock = clock
        self._sampled_at = clock()
        self._first = self._last = self._read()
        self._largest = [memory.used_bytes for memory in self._first]

    def sample(self, *, now: bool = False) -> None:
        """Takes a sample, if the last one is old enough or `now` is set."""
        if not now and self._clock() - self._sampled_at < _SAMPLE_SECONDS:
            return
        self._last = self._read() or self._last
        self._sampled_at = self._clock()
        self._largest = [
            max(largest, memory.used_bytes) for largest, memory in zip(self._largest, self._last, strict=True)
        ]

    def usage(self) -> tuple[HbmUsage, ...]:
        """What is known so far, one entry a device."""
        return tuple(
            _usage(f"{device.platform}:{device.id}", before, largest, after)
            for device, before, largest, after in zip(
                self._devices, self._first, self._largest, self._last, strict=False
            )
        )

    def _read(self) -> tuple[DeviceMemory, ...]:
        try:
            return device_memory(self._devices)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            # An array deleted while it was looked at, or a device that is gone.
            logger.warning("the devices' memory could not be read: %s", error)
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
