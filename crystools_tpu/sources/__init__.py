"""What the hardware says: one file a source, one Protocol."""

from __future__ import annotations

from collections.abc import Sequence

from crystools_tpu.sources.base import Source
from crystools_tpu.sources.host import HostSource
from crystools_tpu.sources.jax_memory import JaxMemorySource
from crystools_tpu.sources.libtpu_sdk import LibtpuSdkSource
from crystools_tpu.sources.nvml import NvmlSource
from crystools_tpu.sources.tpu import TpuSource

__all__ = ["default_sources"]


def default_sources(*, disks: Sequence[str] | None = None) -> list[Source]:
    """Every source there is, in the order in which their values win. Reads nothing yet."""
    tpu = TpuSource()
    return [
        HostSource(disks=disks),
        tpu,
        LibtpuSdkSource(chip_ids=lambda: tpu.chip_ids, quiet=tpu.why_quiet),
        JaxMemorySource(),
        NvmlSource(),
    ]
