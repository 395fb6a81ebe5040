"""Device memory as jax in this very process knows it. Never imports or initialises jax."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from crystools_tpu.sources.base import ChipReading, Reading, SourceUnavailable
from crystools_tpu.sources.tpu_discovery import kind_name
from crystools_tpu.telemetry.chips import chip_spec
from crystools_tpu.telemetry.memory import DeviceMemory, device_memory


class JaxMemorySource:
    """HBM per chip from `memory_stats()`, else from the bytes of live arrays (which have no total).

    Absent until jax has been imported and its backend initialised by somebody else. `modules` is
    `sys.modules`.
    """

    name: Final = "jax_memory"

    def __init__(self, *, modules: Mapping[str, ModuleType] = sys.modules) -> None:
        self._modules = modules

    def read(self) -> Reading:
        """The local devices' memory. Does not wait for the devices."""
        jax = self._modules.get("jax")
        bridge = self._modules.get("jax._src.xla_bridge")
        if jax is None or bridge is None or not bridge.backends_are_initialized():
            raise SourceUnavailable("jax is not in use in this process")
        devices = jax.local_devices()
        return Reading(chips=_chips(devices, {memory.device_id: memory for memory in _measure(devices)}))

    def close(self) -> None:
        """Nothing to let go of."""


def _measure(devices: Sequence[Any]) -> tuple[DeviceMemory, ...]:
    """All devices together; should one fail, each alone, and the failing ones are left out."""
    try:
        return device_memory(devices)
    except RuntimeError:
        if len(devices) == 1:
            return ()
        return tuple(memory for device in devices for memory in _measure([device]))


def _chips(devices: Sequence[Any], memory: Mapping[int, DeviceMemory]) -> tuple[ChipReading, ...]:
    """One reading for each chip all of whose local devices were measured."""
    groups: dict[str, list[Any]] = {}
    for device in devices:
        spec = chip_spec(device.device_kind)
        number = device.id // (spec.devices_per_chip if spec else 1)
        groups.setdefault(f"{device.platform}{number}", []).append(device)
    readings = []
    for chip, group in groups.items():
        parts = [memory[device.id] for device in group if device.id in memory]
        if len(parts) < len(group):
            continue
        limits = [part.limit_bytes for part in parts if part.limit_bytes is not None]
        readings.append(
            ChipReading(
                chip=chip,
                kind=_kind(group[0]),
                hbm_used_bytes=sum(part.used_bytes for part in parts),
                hbm_total_bytes=sum(limits) if len(limits) == len(parts) else None,
            )
        )
    return tuple(readings)


def _kind(device: Any) -> str:
    """The kind as the other sources write it: jax calls a v6e `TPU v6 lite`."""
    spec = chip_spec(device.device_kind)
    return kind_name(spec.name) if spec is not None and device.platform == "tpu" else device.device_kind
