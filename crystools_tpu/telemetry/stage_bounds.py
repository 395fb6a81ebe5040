"""What sets the pace of each stage of a run, with the figures that say so."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from crystools_tpu.telemetry.amounts import duration_text, share_text
from crystools_tpu.telemetry.events import Bound, RunReport, StageName, StageReport
from crystools_tpu.telemetry.labels import size_label, stage_title
from crystools_tpu.telemetry.spent import Spent, parts_of
from crystools_tpu.telemetry.words import kinds_text

BoundBy: TypeAlias = Literal["compute", "bandwidth", "host", "compile", "load", "download", "save"]

_LEAST_SHARE: Final = 0.01
_SPOKEN_OF_SHARE: Final = 0.05
_BY_NAME: Final[dict[StageName, BoundBy]] = {
    StageName.LOAD: "load",
    StageName.DOWNLOAD: "download",
    StageName.SAVE: "save",
}


@dataclass(frozen=True, slots=True)
class StageBound:
    """One stage: its own seconds, their share of the run, by what they are bound and the figures of that.

    `bound` is None where nothing in the report says it. A node's seconds are without its parts'.
    """

    stage: str
    seconds: float
    share_ratio: float | None
    bound: BoundBy | None
    figures: str


def stage_bounds(run: RunReport) -> tuple[StageBound, ...]:
    """The stages that take 1% of the run or more, in their order."""
    stages: dict[int, StageReport] = {}
    spent: dict[int, dict[Spent, float]] = defaultdict(dict)
    for part in parts_of(run).values():
        if part.stage is not None:
            stages[id(part.stage)] = part.stage
            spent[id(part.stage)][part.on] = part.seconds
    total = run.total_seconds or sum(sum(parts.values()) for parts in spent.values())
    bounds = (_bound_of(stage, spent[number], total) for number, stage in stages.items())
    return tuple(each for each in bounds if (each.share_ratio or 0.0) >= _LEAST_SHARE)


def _bound_of(stage: StageReport, spent: dict[Spent, float], total: float) -> StageBound:
    seconds = sum(spent.values())
    compiling = spent.get(Spent.COMPILE, 0.0) + spent.get(Spent.RECOMPILE, 0.0)
    waiting, stepping = spent.get(Spent.HOST, 0.0), spent.get(Spent.STEPS, 0.0)
    used = [
        f"{name} {share_text(ratio.ratio)}"
        for name, ratio in (("MFU", stage.mfu), ("MBU", stage.mbu))
        if ratio
    ]
    used += [kinds] if (kinds := kinds_text(stage)) else []
    bound: BoundBy | None = None
    if stage.name in _BY_NAME:
        bound, figures = _BY_NAME[stage.name], _moved(stage, seconds)
    elif compiling > seconds / 2:
        bound, figures = "compile", [f"{duration_text(compiling)} of it compile"]
    elif stage.bound is Bound.HOST or waiting > (waiting + stepping) / 2:
        waited = f"waited {duration_text(waiting)} for the host" if waiting else "waited for the host"
        bound, figures = "host", [waited, *used]
    else:
        bound = None if stage.bound is None else ("compute" if stage.bound is Bound.COMPUTE else "bandwidth")
        figures = used
    if bound != "compile" and compiling > _SPOKEN_OF_SHARE * seconds:
        figures = [*figures, f"{duration_text(compiling)} of it compile"]
    if bound not in ("host", "compile") and waiting > _SPOKEN_OF_SHARE * seconds:
        figures = [*figures, f"{duration_text(waiting)} of it for the host"]
    share = seconds / total if total else None
    return StageBound(stage_title(stage), seconds, share, bound, ", ".join(figures))


def _moved(stage: StageReport, seconds: float) -> list[str]:
    """What a download or a load brought, and how fast."""
    brought = stage.bytes_done
    if stage.name is StageName.LOAD:
        brought = sum(max(0, use.after_bytes - use.before_bytes) for use in stage.hbm)
    if not brought or not seconds:
        return []
    return [f"{size_label(brought)}, {size_label(int(brought / seconds))}/s"]
