"""One sentence about a run that has ended: how it compares with its last five alike, why, and what to do.

It claims what the reports prove. A cause stands behind a colon where its seconds are most of the difference;
else it is said of how many seconds it is, and that nothing says why the rest. Where there is no cause, that
is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from crystools_tpu.telemetry.amounts import amount_text, duration_text, pace_text
from crystools_tpu.telemetry.causes import Cause, Finding, findings_of, once_only_seconds
from crystools_tpu.telemetry.comparison import SAME_RATIO, Verdict
from crystools_tpu.telemetry.endings import ending_text, what_next
from crystools_tpu.telemetry.events import RunReport, Status
from crystools_tpu.telemetry.peers import earlier_than, peers_of

_RUNS_WITH_A_SPREAD: Final = 3
_MOST_CAUSES: Final = 3
_MOST_OF_IT: Final = 0.5
_COUNTS: Final = {2: "two", 3: "three", 4: "four", 5: "five"}
_ASIDE: Final = (Cause.NAN, Cause.MEMORY, Cause.BETTER_MESH)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is to be said of a run that has ended.

    `sentence` is None while it runs. `verdict` is of its time without what only a first run needs (compiles
    that are in the cache now, downloads): `unproven` where there are too few runs to know by how much it
    changes by itself, None where there is none or it did not succeed. `alike` is how many earlier runs it is
    compared with, five at most: of the same work, and done alike where there are such.
    """

    run_id: str
    sentence: str | None
    verdict: Verdict | None
    alike: int
    findings: tuple[Finding, ...]


def explain(run: RunReport, others: Iterable[RunReport] = ()) -> Explanation:
    """The explanation of a run. `others` are runs of which those before it are compared with it."""
    if run.status is Status.RUNNING:
        return Explanation(run.run_id, None, None, 0, ())
    earlier = earlier_than(run, others)
    if run.status is not Status.SUCCEEDED:
        ending = Finding(Cause.ENDING, ending_text(run), None, what_next(run, earlier))
        return Explanation(run.run_id, _sentences(ending.text, ending.remedy), None, 0, (ending,))
    peers = peers_of(run, earlier) if run.total_seconds else ()
    findings = findings_of(run, peers, earlier)
    verdict = _verdict(run, peers)
    said = _compared(run, peers, findings, verdict) if peers else _alone(run, findings)
    nan = [finding.text for finding in findings if finding.cause is Cause.NAN]
    said = f"Of no use, {nan[0]}; {_uncapitalised(said)}" if nan else said
    aside = [finding.text for finding in findings if finding.cause in _ASIDE[1:]]
    remedy = _remedy(findings, verdict)
    return Explanation(
        run.run_id, _sentences("; ".join([said, *aside]), remedy), verdict, len(peers), findings
    )


def _compared(
    run: RunReport, peers: Sequence[RunReport], findings: Sequence[Finding], verdict: Verdict | None
) -> str:
    total, usual = run.total_seconds or 0.0, _usual(peers)
    ratio = total / usual - 1
    if verdict in (Verdict.SAME, Verdict.NOISE):
        return _as_usual(run, peers, findings)
    lead = f"{pace_text(ratio)} {'as' if ratio >= 1 else 'than'} {_who(peers)}"
    lead = f"{lead} ({duration_text(total)} instead of {duration_text(usual)})"
    return _capitalised(f"{lead}{_why(findings, total - usual, len(peers))}")


def _why(findings: Sequence[Finding], difference: float, count: int) -> str:
    """What follows the lead: the causes, or where the seconds went, or that nothing says why."""
    same_way = [f for f in findings if f.seconds is not None and f.seconds * difference > 0]
    reasons = [finding for finding in same_way if finding.is_reason]
    where = [finding for finding in same_way if not finding.is_reason][:_MOST_CAUSES]
    explained = sum(finding.seconds or 0.0 for finding in reasons) / difference
    causes = "; ".join(finding.text for finding in reasons[:_MOST_CAUSES])
    if explained >= _MOST_OF_IT:
        return f": {causes}"
    unknown = "nothing in its report says why"
    if count < _RUNS_WITH_A_SPREAD:
        unknown += f", and with {'one run' if count == 1 else 'two runs'} to compare it may be chance"
    places = f", {'; '.join(finding.text for finding in where)}" if where else ""
    if not reasons:
        return f"{places}; {unknown}"
    share = amount_text(sum(finding.seconds or 0.0 for finding in reasons))
    return f", of which {share}: {causes}; of the rest{places} {unknown}"


def _as_usual(run: RunReport, peers: Sequence[RunReport], findings: Sequence[Finding]) -> str:
    total, took = run.total_seconds or 0.0, [peer.total_seconds or 0.0 for peer in peers]
    once = [f for f in findings if f.cause in (Cause.COLD_CACHE, Cause.DOWNLOAD) and (f.seconds or 0) > 0]
    saved = [f for f in findings if f.cause is Cause.CACHE_HIT]
    if once or saved:
        but = "; ".join(finding.text for finding in [*once, *saved])
        said = f"As fast as {_who(peers)} but for this: {but} ({duration_text(total)} in all)"
    elif len(took) < _RUNS_WITH_A_SPREAD:
        said = f"As fast as {_who(peers)}: {duration_text(total)}, {duration_text(_usual(peers))} before"
    else:
        spread = f"{duration_text(min(took))} to {duration_text(max(took))}"
        said = f"As fast as {_who(peers)}: {duration_text(total)}, they took {spread}"
    again = [finding.text for finding in findings if finding.is_reason and finding.seconds is None]
    return "; ".join([said, *(f"as usual {text}" for text in again)])


def _alone(run: RunReport, findings: Sequence[Finding]) -> str:
    said = "The first of its kind in the history, so with nothing to compare"
    took = "" if run.total_seconds is None else f": {duration_text(run.total_seconds)}"
    reasons = [finding.text for finding in findings if finding.is_reason][:_MOST_CAUSES]
    return "; ".join([f"{said}{took}", *reasons])


def _verdict(run: RunReport, peers: Sequence[RunReport]) -> Verdict | None:
    if not peers:
        return None
    own = (run.total_seconds or 0.0) - once_only_seconds(run)
    theirs = [(peer.total_seconds or 0.0) - once_only_seconds(peer) for peer in peers]
    usual = median(theirs)
    ratio = own / usual - 1 if usual > 0 else 0.0
    if abs(ratio) < SAME_RATIO:
        return Verdict.SAME
    if len(peers) < _RUNS_WITH_A_SPREAD:
        return Verdict.UNPROVEN
    if min(theirs) <= own <= max(theirs):
        return Verdict.NOISE
    return Verdict.WORSE if ratio > 0 else Verdict.BETTER


def _remedy(findings: Sequence[Finding], verdict: Verdict | None) -> str | None:
    """What to do about the first finding of which that is known, where it is of any use."""
    useful = [
        finding for finding in findings if finding.remedy and (finding.seconds is None or finding.seconds > 0)
    ]
    return useful[0].remedy if useful else None


def _usual(peers: Sequence[RunReport]) -> float:
    return median(peer.total_seconds or 0.0 for peer in peers)


def _who(peers: Sequence[RunReport]) -> str:
    return "the last run like it" if len(peers) == 1 else f"its last {_COUNTS[len(peers)]}"


def _sentences(said: str, remedy: str | None) -> str:
    return f"{said}. To do: {remedy}." if remedy else f"{said}."


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]
