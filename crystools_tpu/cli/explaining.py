"""A run explained: the sentence about it, what bounds each stage, and what would change that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.markup import escape

from crystools_exporters.exporting import kept_runs
from crystools_tpu import telemetry
from crystools_tpu.cli.console import new_table, print_table, print_text, unfolded
from crystools_tpu.cli.planned import planned_proposals
from crystools_tpu.stage_table import ABSENT
from crystools_tpu.telemetry import Explanation, RunReport, Status
from crystools_tpu.telemetry.amounts import share_text
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.proposals import Proposal, proposals_of
from crystools_tpu.telemetry.stage_bounds import StageBound, stage_bounds

logger = logging.getLogger(__name__)

MOST_OTHERS: Final = 100
"""How many runs of the same pipeline are looked through for what was faster."""

_MOST_PROPOSALS: Final = 6


@dataclass(frozen=True)
class Explained:
    """`runs explain --json`. `unknown` says what nobody knows yet, and which command would find out."""

    explanation: Explanation
    stages: tuple[StageBound, ...]
    proposals: tuple[Proposal, ...]
    unknown: str | None


def sentence_of(report: RunReport) -> str | None:
    """The sentence about a run of this process, by the history; None where that fails, which is logged."""
    with Guard(logger)("what is to be said of the run could not be found"), kept_runs() as kept:
        earlier = kept.earlier(report) if kept is not None else ()
        return telemetry.explain(report, [*earlier, *telemetry.history.reports()]).sentence
    return None


def run_explained(report: RunReport, earlier: Sequence[RunReport], others: Sequence[RunReport]) -> Explained:
    """All that is known of the run; `others` are of the same pipeline. Nothing is compiled for it."""
    explanation = telemetry.explain(report, earlier)
    proposals: tuple[Proposal, ...] = ()
    unknown = None
    if report.status is Status.SUCCEEDED:
        proposals = proposals_of(report, explanation.findings, others)
        planned, unknown = planned_proposals(report)
        by_both = sorted([*proposals, *planned], key=lambda proposal: proposal.ratio)
        proposals = tuple(by_both[:_MOST_PROPOSALS])
    return Explained(explanation, stage_bounds(report), proposals, unknown)


def print_explained(console: Console, told: Explained) -> None:
    """The sentence, a row a stage, and a line a proposal."""
    print_text(console, told.explanation.sentence or "")
    if told.stages:
        table = new_table("stage", *unfolded("seconds", "share", justify="right"), "bound by", "figures")
        for stage in told.stages:
            table.add_row(
                escape(stage.stage),
                f"{stage.seconds:.3f}",
                ABSENT if stage.share_ratio is None else share_text(stage.share_ratio),
                stage.bound or ABSENT,
                escape(stage.figures),
            )
        print_table(console, table)
    if told.proposals or told.unknown is not None:
        print_text(console, "What would change it:")
    for proposal in told.proposals:
        print_text(console, f"- {proposal.text}")
    if told.unknown is not None:
        print_text(console, f"- unknown: {told.unknown}")
