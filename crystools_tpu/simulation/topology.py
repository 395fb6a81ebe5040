"""The TPU machines that can be simulated: one host of each accelerator type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tpu_info.device import TpuChip

from crystools_tpu.telemetry.chips import CHIPS_BY_NAME, ChipSpec


@dataclass(frozen=True, slots=True)
class Topology:
    """One host."""

    name: str
    chip: TpuChip
    chips: int

    @property
    def spec(self) -> ChipSpec:
        """The chip's specification."""
        return CHIPS_BY_NAME[self.chip.value.name]

    @property
    def devices_per_chip(self) -> int:
        """How many jax devices a chip is."""
        return int(self.chip.value.devices_per_chip)


# The number in a name counts TensorCores on v2 to v5p and 7x, chips on v5e and v6e, as Google Cloud's
# accelerator types do.
_TOPOLOGIES: Final = {
    topology.name: topology
    for topology in (
        Topology("v2-8", TpuChip.V2, 4),
        Topology("v3-8", TpuChip.V3, 4),
        Topology("v4-8", TpuChip.V4, 4),
        Topology("v5e-1", TpuChip.V5E, 1),
        Topology("v5e-4", TpuChip.V5E, 4),
        Topology("v5e-8", TpuChip.V5E, 8),
        Topology("v5p-8", TpuChip.V5P, 4),
        Topology("v6e-1", TpuChip.V6E, 1),
        Topology("v6e-4", TpuChip.V6E, 4),
        Topology("v6e-8", TpuChip.V6E, 8),
        Topology("7x-8", TpuChip.V7X, 4),
    )
}

TOPOLOGIES: Final = tuple(_TOPOLOGIES)


def parse_topology(name: str) -> Topology:
    """The topology of that name. Raises `ValueError` that lists those there are."""
    try:
        return _TOPOLOGIES[name]
    except KeyError:
        raise ValueError(f"topology must be one of {', '.join(TOPOLOGIES)}, got {name!r}") from None
