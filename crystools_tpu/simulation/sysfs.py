"""Fake `/sys` and `/dev` trees of a TPU host, as far as tpu-info and our discovery look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tpu_info.device import GOOGLE_PCI_VENDOR_ID, TpuChip

from crystools_tpu.simulation.topology import Topology
from crystools_tpu.sources.tpu_discovery import VFIO_DRIVER

_PCI_IDS: Final = {
    TpuChip.V2: ("0x0027", "0x004e"),
    TpuChip.V3: ("0x0027", "0x004f"),
    TpuChip.V4: ("0x005e", "0x0000"),
    TpuChip.V5E: ("0x0063", "0x0000"),
    TpuChip.V5P: ("0x0062", "0x0000"),
    TpuChip.V6E: ("0x006f", "0x0000"),
    TpuChip.V7X: ("0x0076", "0x0000"),
}
"""Device and subsystem id, the reverse of `TpuChip.from_pci_device_id`."""

_ACCEL: Final = frozenset({TpuChip.V2, TpuChip.V3, TpuChip.V4})


def write_tree(root: Path, topology: Topology) -> Path:
    """Writes `sys/` and `dev/` under `root` and returns `root/sys`.

    Besides the chips there is one device that is no TPU. A 7x chip is two PCI functions, one a core; all
    others are one. v2 to v4 have `/dev/accelN`, later ones `/dev/vfio/N`, which no program has open.
    """
    sysfs = root / "sys"
    functions = 2 if topology.chip is TpuChip.V7X else 1
    _write_function(sysfs, "0000:00:03.0", "0x1af4", ("0x1041", "0x0041"), group=0)
    for chip in range(topology.chips):
        for function in range(functions):
            node = chip * functions + function
            address = f"0000:{chip:02x}:05.{function}"
            is_accel = topology.chip in _ACCEL
            ids = _PCI_IDS[topology.chip]
            _write_function(sysfs, address, GOOGLE_PCI_VENDOR_ID, ids, group=node)
            if not is_accel:
                _bind_to_vfio(sysfs / "bus/pci/devices" / address)
            device = root / "dev" / (f"accel{node}" if is_accel else f"vfio/{node}")
            device.parent.mkdir(parents=True, exist_ok=True)
            device.touch()
    return sysfs


def open_chips(sysfs: Path, *, opened: bool = True) -> None:
    """Has the kernel count a program that has the chips open through vfio, or none any more."""
    for function in (sysfs / "bus/pci/devices").glob("*/enable"):
        function.write_text(f"{int(opened)}\n", encoding="ascii")


def remove_chip(sysfs: Path, chip: int) -> None:
    """Takes a chip's PCI functions away, as when it falls off the bus."""
    for function in (sysfs / "bus/pci/devices").glob(f"0000:{chip:02x}:05.*"):
        for attribute in function.iterdir():
            attribute.unlink()
        function.rmdir()


def _write_function(sysfs: Path, address: str, vendor: str, ids: tuple[str, str], group: int) -> None:
    function = sysfs / "bus/pci/devices" / address
    function.mkdir(parents=True)
    (function / "vendor").write_text(f"{vendor}\n", encoding="ascii")
    (function / "device").write_text(f"{ids[0]}\n", encoding="ascii")
    (function / "subsystem_device").write_text(f"{ids[1]}\n", encoding="ascii")
    (function / "iommu_group").symlink_to(f"../../../kernel/iommu_groups/{group}")


def _bind_to_vfio(function: Path) -> None:
    (function / "driver").symlink_to(f"../../../../bus/pci/drivers/{VFIO_DRIVER}")
    (function / "enable").write_text("0\n", encoding="ascii")
