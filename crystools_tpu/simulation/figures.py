"""What a simulated chip shows: plausible figures, fixed or moving, the same for the same time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from crystools_tpu.simulation.topology import Topology

_REPEATED: Final = 16
"""After so many chips the figures come again."""


@dataclass(frozen=True, slots=True)
class ChipFigures:
    """One chip. Memory in bytes over all its devices, programs run so far by each, the rest in percent."""

    hbm_used_bytes: int
    hbm_total_bytes: int
    duty_cycle_percent: float
    hbm_bandwidth_percent: float
    tensorcore_percent: float
    hlo_executions: int = 100


def plausible_figures(topology: Topology, seconds: float = 0.0) -> tuple[ChipFigures, ...]:
    """One entry a chip, `seconds` into a denoising loop of 20 s. Neighbours differ a little."""
    return tuple(_chip(topology, chip, seconds) for chip in range(topology.chips))


def _chip(topology: Topology, chip: int, seconds: float) -> ChipFigures:
    chip %= _REPEATED
    wave = math.sin(2 * math.pi * (seconds / 20 + chip / _REPEATED))
    total = topology.spec.hbm_bytes
    # Whole MiB, and even, so that a chip's memory splits over two devices without a remainder.
    used_mib = round(total / 2**20 * (0.68 + 0.01 * chip + 0.08 * wave) / 2) * 2
    return ChipFigures(
        hbm_used_bytes=used_mib * 2**20,
        hbm_total_bytes=total,
        duty_cycle_percent=round(84 + 12 * wave - 0.5 * chip, 2),
        hbm_bandwidth_percent=round(46 + 9 * wave - 0.25 * chip, 2),
        tensorcore_percent=round(38 + 11 * wave - 0.5 * chip, 2),
        hlo_executions=100 + 10 * int(seconds),
    )
