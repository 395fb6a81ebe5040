"""The TPU topologies that libtpu can compile for, by the names of Google Cloud's accelerator types.

Those of v4, v5p and 7x count TensorCores, of which a chip has two; those of v5e and v6e count chips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from crystools_tpu.telemetry.chips import CHIPS_BY_NAME, ChipSpec, chip_spec


@dataclass(frozen=True)
class Topology:
    """Chips of one kind in a torus: libtpu's name for it, and what else libtpu must be told."""

    chip_name: str
    chips: int
    libtpu_name: str
    libtpu_options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def chip(self) -> ChipSpec:
        """The specification of one of its chips."""
        return CHIPS_BY_NAME[self.chip_name]


_MEGACORE = {"chip_config_name": "megacore"}  # both TensorCores of a v4 as one device, as jax has them
_SINGLE = {"chips_per_host_bounds": (1, 1, 1)}

TOPOLOGIES = {
    "v4-8": Topology("v4", 4, "v4:2x2x1", _MEGACORE),
    "v4-16": Topology("v4", 8, "v4:2x2x2", _MEGACORE),
    "v4-32": Topology("v4", 16, "v4:2x2x4", _MEGACORE),
    "v5e-1": Topology("v5e", 1, "v5e:1x1", _SINGLE),
    "v5e-4": Topology("v5e", 4, "v5e:2x2"),
    "v5e-8": Topology("v5e", 8, "v5e:2x4"),
    "v5e-16": Topology("v5e", 16, "v5e:4x4"),
    "v5p-8": Topology("v5p", 4, "v5p:2x2x1"),
    "v5p-16": Topology("v5p", 8, "v5p:2x2x2"),
    "v5p-32": Topology("v5p", 16, "v5p:2x2x4"),
    "v6e-1": Topology("v6e", 1, "v6e:1x1", _SINGLE),
    "v6e-4": Topology("v6e", 4, "v6e:2x2"),
    "v6e-8": Topology("v6e", 8, "v6e:2x4"),
    "v6e-16": Topology("v6e", 16, "v6e:4x4"),
    "7x-2": Topology("7x", 1, "tpu7x:1x1x1", _SINGLE),
    "7x-8": Topology("7x", 4, "tpu7x:2x2x1"),
    "7x-16": Topology("7x", 8, "tpu7x:2x2x2"),
}


def topology_of(devices: Sequence[Any]) -> str | None:
    """The name of the topology that these jax devices make up; None where it is none of TOPOLOGIES."""
    return topology_named(devices[0].device_kind, len(devices))


def topology_named(device_kind: str, count: int) -> str | None:
    """The name of the topology that so many jax devices of this kind make up; None as `topology_of`."""
    chip = chip_spec(device_kind)
    if chip is None:
        return None
    wanted = (chip.name, count / chip.devices_per_chip)
    return next((name for name, each in TOPOLOGIES.items() if (each.chip_name, each.chips) == wanted), None)
