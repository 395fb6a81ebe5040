"""Which TPU chips are attached, by their PCI functions in sysfs. Opens no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tpu_info.device import GOOGLE_PCI_VENDOR_ID, TpuChip

from crystools_tpu.sources.base import AttachedChips

SYSFS = Path("/sys")
VFIO_DRIVER: Final = "vfio-pci"


@dataclass(frozen=True, slots=True)
class FoundChip:
    """A chip as sysfs has it: the addresses of its PCI functions, and their IOMMU groups.

    `unopened`: the kernel says that no program whatever has it open. vfio-pci enables a device when a program
    opens it and disables it with the last, which other drivers do not: of theirs that is not known.
    """

    chip: TpuChip
    functions: tuple[str, ...]
    iommu_groups: tuple[str, ...]
    unopened: bool


def find_chips(sysfs: Path = SYSFS) -> tuple[FoundChip, ...]:
    """Each attached chip. tpu-info's table of PCI ids decides.

    A 7x chip shows one PCI function a core: functions of one slot are one chip. A device that vanishes
    while it is looked at is left out.
    """
    chips: dict[str, FoundChip] = {}
    for function in sorted((sysfs / "bus/pci/devices").glob("*")):
        try:
            found = _chip_of(function)
        except OSError:
            continue
        if found is None:
            continue
        slot = function.name.rpartition(".")[0]
        known = chips.get(slot)
        chips[slot] = found if known is None else _joined(known, found)
    return tuple(chips.values())


def attached_chips(found: Sequence[FoundChip]) -> AttachedChips | None:
    """What the wire says of them; None of none."""
    if not found:
        return None
    return AttachedChips(
        kind=kind_name(found[0].chip.value.name),
        count=len(found),
        pci_addresses=tuple(address for chip in found for address in chip.functions),
    )


def kind_name(generation: str) -> str:
    """How a chip's type is written on the wire: `TPU v6e` for `v6e`, `TPU7x` for `7x`."""
    return f"TPU {generation}" if generation.startswith("v") else f"TPU{generation}"


def _chip_of(function: Path) -> FoundChip | None:
    if _read(function, "vendor") != GOOGLE_PCI_VENDOR_ID:
        return None
    chip = TpuChip.from_pci_device_id(_read(function, "device"), _read(function, "subsystem_device"))
    if chip is None:
        return None
    group = _target(function, "iommu_group")
    return FoundChip(chip, (function.name,), () if group is None else (group,), _is_unopened(function))


def _is_unopened(function: Path) -> bool:
    if _target(function, "driver") != VFIO_DRIVER:
        return False
    try:
        return _read(function, "enable") == "0"
    except OSError:
        return False


def _joined(one: FoundChip, other: FoundChip) -> FoundChip:
    return replace(
        one,
        functions=one.functions + other.functions,
        iommu_groups=one.iommu_groups + other.iommu_groups,
        unopened=one.unopened and other.unopened,
    )


def _target(function: Path, link: str) -> str | None:
    """The name of what a link leads to."""
    try:
        return (function / link).readlink().name
    except OSError:
        return None


def _read(function: Path, attribute: str) -> str:
    return (function / attribute).read_text(encoding="ascii").strip()
