"""How much memory each jax device holds, by the backend's own count or by the arrays alive."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of one device now, in bytes. `peak_bytes` is the allocator's, since the process began.

    `live_arrays` counts what arrays hold, not what a running program needs besides.
    """

    device_id: int
    used_bytes: int
    peak_bytes: int | None
    limit_bytes: int | None
    method: Literal["memory_stats", "live_arrays"]


def device_memory(devices: Sequence[Any]) -> tuple[DeviceMemory, ...]:
    """Memory of each of the given jax devices, in their order. Never synchronises with a device."""
    stats = [device.memory_stats() for device in devices]
    if any("bytes_in_use" not in (entry or {}) for entry in stats):
        return _by_live_arrays(devices)
    return tuple(
        DeviceMemory(
            device_id=device.id,
            used_bytes=operator.index(entry["bytes_in_use"]),
            peak_bytes=_known(entry.get("peak_bytes_in_use")),
            limit_bytes=_known(entry.get("bytes_limit")),
            method="memory_stats",
        )
        for device, entry in zip(devices, stats, strict=True)
    )


def _known(value: int | None) -> int | None:
    """libtpu says -1 for a figure that it does not have."""
    return None if value is None or value < 0 else operator.index(value)


def _by_live_arrays(devices: Sequence[Any]) -> tuple[DeviceMemory, ...]:
    if not devices:
        return ()
    used = dict.fromkeys((device.id for device in devices), 0)
    for array in devices[0].client.live_arrays():
        shard_bytes = math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for device in array.sharding.addressable_devices:
            if device.id in used:
                used[device.id] += shard_bytes
    return tuple(DeviceMemory(id_, bytes_, None, None, "live_arrays") for id_, bytes_ in used.items())
