"""Which chips a workflow would run on, as far as that is known without waking any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from crystools_tpu.monitor import Monitor
from crystools_tpu.telemetry.chips import CHIPS_BY_NAME, chip_spec
from crystools_tpu.telemetry.events import Device


@dataclass(frozen=True)
class Chips:
    """So many chips of a kind. `name` is that of the table of chips, or jax's own where it has none.

    `devices` is how many jax devices they are.
    """

    name: str
    chips: float
    devices: int

    @classmethod
    def of(cls, kind: str, devices: int) -> Chips:
        """So many devices as jax names them."""
        spec = chip_spec(kind)
        if spec is None:
            return cls(kind, float(devices), devices)
        return cls(spec.name, devices / spec.devices_per_chip, devices)

    def are(self, device: Device | None) -> bool:
        """Whether a run was on such chips, and on as many."""
        return device is not None and Chips.of(device.kind, device.count) == self


def chips_here(modules: Mapping[str, ModuleType], monitor: Monitor) -> Chips | None:
    """Those that jax has, where something has initialised it; else what the monitor saw last; else None.

    A simulated machine runs nothing.
    """
    devices = jax_devices(modules)
    if devices is not None:
        return Chips.of(devices[0].device_kind, len(devices)) if devices else None
    snapshot = monitor.latest
    if snapshot is None or snapshot.simulated:
        return None
    kinds, chips = {chip.kind for chip in snapshot.chips}, len(snapshot.chips)
    if not chips and snapshot.attached is not None:  # no program uses them yet
        kinds, chips = {snapshot.attached.kind}, snapshot.attached.count
    spec = CHIPS_BY_NAME.get(kinds.pop() or "") if len(kinds) == 1 else None
    if spec is None or not spec.tensorcores:
        return None
    return Chips(spec.name, float(chips), chips * spec.devices_per_chip)


def jax_devices(modules: Mapping[str, ModuleType]) -> list[Any] | None:
    """All of jax's devices; None where nothing has initialised them yet, which is not for us to do."""
    jax, bridge = modules.get("jax"), modules.get("jax._src.xla_bridge")
    if jax is None or bridge is None or not bridge.backends_are_initialized():
        return None
    devices: list[Any] = jax.devices()
    return devices
