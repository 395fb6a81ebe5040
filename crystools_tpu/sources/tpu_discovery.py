"""Which TPU chips are attached, by their PCI functions in sysfs. Opens no device."""

from __future__ import annotations

from pathlib import Path

from tpu_info.device import GOOGLE_PCI_VENDOR_ID, TpuChip

SYSFS = Path("/sys")


def find_chips(sysfs: Path = SYSFS) -> tuple[TpuChip, ...]:
    """The type of each attached chip, one entry a chip. tpu-info's table of PCI ids decides.

    A 7x chip shows one PCI function a core: functions of one slot are one chip. A device that vanishes
    while it is looked at is left out.
    """
    chips: dict[str, TpuChip] = {}
    for function in sorted((sysfs / "bus/pci/devices").glob("*")):
        try:
            if _read(function, "vendor") != GOOGLE_PCI_VENDOR_ID:
                continue
            chip = TpuChip.from_pci_device_id(_read(function, "device"), _read(function, "subsystem_device"))
        except OSError:
            continue
        if chip is not None:
            chips[function.name.rpartition(".")[0]] = chip
    return tuple(chips.values())


def kind_name(generation: str) -> str:
    """How a chip's type is written: `TPU v6e` for `v6e`, `TPU7x` for `7x`."""
    return f"TPU {generation}" if generation.startswith("v") else f"TPU{generation}"


def _read(function: Path, attribute: str) -> str:
    return (function / attribute).read_text(encoding="ascii").strip()
