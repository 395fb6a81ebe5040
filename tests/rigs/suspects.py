"""Stages with a figure that cannot be, by its name, and stages whose figures are odd, but possible."""

from __future__ import annotations

from typing import Any, Final

from crystools_tpu.telemetry import HbmUsage, Ratio, StageName, StageReport, StepSeconds
from tests.rigs.workflow_run import GIB, stage

MEASURED: Final = "architecture; peak: measured by a float32 matrix product"
OF_A_CHIP: Final = "architecture; peak: cloud.google.com/tpu/docs/v6e"
GIVEN: Final = "mine; peak: given by the user"


def denoise(**more: Any) -> StageReport:
    """A denoising of one step, with these figures."""
    return stage(StageName.DENOISE, "transformer", 0.0, more.pop("seconds", 45.0), steps_total=1, **more)


def mfu(ratio: float, method: str) -> Ratio:
    """So much of a peak that was known so."""
    return Ratio(ratio, ratio * 8, 8.0, "flop", method)


def hbm(peak_gib: float, limit_gib: float | None, method: Any = "memory_stats") -> tuple[HbmUsage, ...]:
    """The memory of one chip at its peak."""
    limit = None if limit_gib is None else int(limit_gib * GIB)
    return (HbmUsage("tpu:0", 0, int(peak_gib * GIB), 0, limit, method),)


SUSPECTS: Final = {
    "MFU of a chip": denoise(mfu=mfu(1.01, OF_A_CHIP)),
    "MFU of a CPU": denoise(mfu=mfu(8.55, MEASURED)),
    "MFU of a given peak": denoise(mfu=mfu(1.5, GIVEN)),
    "MBU": denoise(mbu=Ratio(1.2, 12.0, 10.0, "byte", "bytes that must move")),
    "HBM": denoise(hbm=hbm(40, 31.25)),
    "time": denoise(seconds=-1.0),
    "step": denoise(step_seconds=StepSeconds(-0.5, 2.0, -0.5, 2.0)),
}

POSSIBLE: Final = {
    "all of a chip": denoise(mfu=mfu(1.0, OF_A_CHIP)),
    "a CPU whose peak was measured while it was busy": denoise(mfu=mfu(1.9, MEASURED)),
    "all of HBM": denoise(hbm=hbm(31.25, 31.25)),
    "HBM without a limit": denoise(hbm=hbm(40, None)),
    "a GPU whose driver adds the host's memory": denoise(hbm=hbm(40, 24, "torch_memory_stats")),
    "nothing known": denoise(),
}
