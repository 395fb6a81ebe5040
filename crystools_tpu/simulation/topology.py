"""The TPU machines that can be simulated: every accelerator type of up to 256 chips, as one machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tpu_info.device import TpuChip

from crystools_tpu.telemetry.chips import CHIPS_BY_NAME, ChipSpec


@dataclass(frozen=True, slots=True)
class Topology:
    """One machine, whatever number of hosts such a one has."""

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


_SIZES: Final = (4, 8, 16, 32, 64, 128, 256)
_SINGLE: Final = frozenset({TpuChip.V5E, TpuChip.V6E, TpuChip.V7X})
"""Those of which a single chip can be had."""


def _of_chip(chip: TpuChip) -> tuple[Topology, ...]:
    """Every machine of this kind. The number in a name counts TensorCores, as Google Cloud's types do."""
    generation = chip.value.name
    cores = CHIPS_BY_NAME[generation].tensorcores
    sizes = (1, *_SIZES) if chip in _SINGLE else _SIZES
    return tuple(Topology(f"{generation}-{chips * cores}", chip, chips) for chips in sizes)


_BY_CHIP: Final = {chip: _of_chip(chip) for chip in TpuChip}
_TOPOLOGIES: Final = {topology.name: topology for group in _BY_CHIP.values() for topology in group}

TOPOLOGIES: Final = tuple(_TOPOLOGIES)


def parse_topology(name: str) -> Topology:
    """The topology of that name. Raises `ValueError` that says which there are."""
    try:
        return _TOPOLOGIES[name]
    except KeyError:
        raise ValueError(f"topology must be one of {known_topologies()}, got {name!r}") from None


def known_topologies() -> str:
    """`v2-8 to v2-512, ..., 7x-2, 7x-8 to 7x-512, each twice the one before`."""
    ranges = []
    for topologies in _BY_CHIP.values():
        single = [topology.name for topology in topologies if topology.chips == 1]
        ranges += [*single, f"{topologies[len(single)].name} to {topologies[-1].name}"]
    return f"{', '.join(ranges)}, each twice the one before"
