"""Which figures a stage can have at all: `-` is shown for the others, `n/a` for what could have been known.

The page has the same rules (`web/applicable.js`).
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from crystools_tpu.telemetry.events import StageName, StageReport

StageFigure: TypeAlias = Literal["compile", "steps", "utilisation", "memory", "host_memory"]
"""`steps` is all that is of steps, `utilisation` is MFU, MBU and what bounds them."""

_COMPILE: Final = frozenset(StageName) - {StageName.DOWNLOAD, StageName.LOAD, StageName.SAVE, StageName.NODE}


def applies(figure: StageFigure, stage: StageReport) -> bool:
    """Whether such a stage can have the figure. What it has all the same is shown."""
    match figure:
        case "compile":
            return stage.name in _COMPILE
        case "memory":
            return stage.name is not StageName.DOWNLOAD
        case "host_memory":  # which is the process's, and read around nodes alone
            return stage.name is StageName.NODE
    has_steps = bool(stage.steps) or stage.steps_total is not None
    return has_steps and (figure == "steps" or stage.name is not StageName.NODE)
