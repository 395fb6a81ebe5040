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
from crystools_tpu.telemetry.comparison import Verdict, judge
from crystools_tpu.telemetry.endings import ending_text, what_next
from crystools_tpu.telemetry.events import RunReport, Status
from crystools_tpu.telemetry.peers import earlier_than, peers_of
from crystools_tpu.telemetry.spent import RUNS_TO_JUDGE_BY

_MOST_CAUSES: Final = 3
_MOST_OF_IT: Final = 0.5
_COUNTS: Final = {2: "two", 3: "three", 4: "four", 5: "five"}
_ASIDE: Final = (Cause.MEMORY, Cause.BETTER_MESH)


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
        return Explanation(run.run_id, _sentence([ending.text], ending.remedy), None, 0, (ending,))
    peers = peers_of(run, earlier) if run.total_seconds else ()
    findings = findings_of(run, peers, earlier)
    times = _times(run, peers, findings) if peers else None
    said = _alone(run, findings) if times is None else _compared(run, times, findings)
    first = [f"Of no use: {finding.text}" for finding in findings if finding.cause is Cause.NAN]
    aside = [finding.text for finding in findings if finding.cause in _ASIDE]
    sentence = _sentence([*first, said, *aside], _remedy(findings))
    return Explanation(run.run_id, sentence, times.verdict if times else None, len(peers), findings)


@dataclass(frozen=True, slots=True)
class _Times:
    """What the run and its peers took, without what only a first run needs."""

    own: float
    theirs: Sequence[float]

    @property
    def usual(self) -> float:
        return median(self.theirs)

    @property
    def ratio(self) -> float:
        return self.own / self.usual - 1 if self.usual > 0 else 0.0

    @property
    def who(self) -> str:
        count = len(self.theirs)
        return "the last run like it" if count == 1 else f"its last {_COUNTS[count]}"

    @property
    def verdict(self) -> Verdict:
        return judge(self.ratio, self.own, self.theirs)


def _times(run: RunReport, peers: Sequence[RunReport], findings: Sequence[Finding]) -> _Times:
    once = [once_only_seconds(peer) for peer in peers]
    more = [max(0.0, seconds - median(once)) for seconds in once]
    return _Times(
        (run.total_seconds or 0.0) - sum(finding.seconds or 0.0 for finding in findings if _is_once(finding)),
        [(peer.total_seconds or 0.0) - seconds for peer, seconds in zip(peers, more, strict=True)],
    )


def _is_once(finding: Finding) -> bool:
    """Whether it is the difference between a first run and those after it."""
    return finding.cause in (Cause.COLD_CACHE, Cause.CACHE_HIT, Cause.DOWNLOAD) and bool(finding.seconds)


def _compared(run: RunReport, times: _Times, findings: Sequence[Finding]) -> str:
    once = "; ".join(finding.text for finding in findings if _is_once(finding))
    if times.verdict in (Verdict.SAME, Verdict.NOISE):
        return _as_usual(run, times, findings, once)
    lead = f"{pace_text(times.ratio)} {'as' if times.ratio >= 1 else 'than'} {times.who}"
    took = f"{duration_text(times.own)} instead of {duration_text(times.usual)}"
    but = f", not counting this: {once}" if once else ""
    return f"{lead} ({took}{but}){_why(findings, times)}"


def _why(findings: Sequence[Finding], times: _Times) -> str:
    """What follows the lead: the causes, or where the seconds went, or that nothing says why."""
    difference, count = times.own - times.usual, len(times.theirs)
    counted = [f for f in findings if f.seconds is not None and not _is_once(f)]
    same_way = [finding for finding in counted if (finding.seconds or 0.0) * difference > 0]
    reasons = [finding for finding in same_way if finding.is_reason]
    where = [finding for finding in same_way if not finding.is_reason][:_MOST_CAUSES]
    explained = sum(finding.seconds or 0.0 for finding in reasons) / difference
    causes = "; ".join(finding.text for finding in reasons[:_MOST_CAUSES])
    if explained >= _MOST_OF_IT:
        return f": {causes}"
    unknown = "nothing in its report says why"
    if count < RUNS_TO_JUDGE_BY:
        unknown += f", and with {'one run' if count == 1 else 'two runs'} to compare it may be chance"
    places = "; ".join(finding.text for finding in where)
    if not reasons:
        return f", {places}; {unknown}" if places else f"; {unknown}"
    share = amount_text(sum(finding.seconds or 0.0 for finding in reasons))
    return f", of which {share}: {causes}; of the rest {unknown}{f' ({places})' if places else ''}"


def _as_usual(run: RunReport, times: _Times, findings: Sequence[Finding], once: str) -> str:
    total = duration_text(run.total_seconds or 0.0)
    if once:
        said = f"As fast as {times.who} but for this: {once} ({total} in all)"
    else:
        took = dict.fromkeys(map(duration_text, (min(times.theirs), max(times.theirs))))
        said = f"As fast as {times.who}: {total}, before {' to '.join(took)}"
    again = [finding.text for finding in findings if finding.is_reason and finding.seconds is None]
    return "; ".join([said, *(f"as usual {text}" for text in again)])


def _alone(run: RunReport, findings: Sequence[Finding]) -> str:
    said = "The first run of its kind in the history, with nothing to compare"
    took = "" if run.total_seconds is None else f": {duration_text(run.total_seconds)}"
    reasons = [finding.text for finding in findings if finding.is_reason][:_MOST_CAUSES]
    return "; ".join([f"{said}{took}", *reasons])


def _remedy(findings: Sequence[Finding]) -> str | None:
    """What to do about the first finding that is to be mended and of which that is known."""
    bad = [finding for finding in findings if finding.seconds is None or finding.seconds > 0]
    return next((finding.remedy for finding in bad if finding.remedy), None)


def _sentence(parts: Sequence[str], remedy: str | None) -> str:
    first, *others = parts
    said = "; ".join([first[:1].upper() + first[1:], *(part[:1].lower() + part[1:] for part in others)])
    return f"{said}. To do: {remedy}." if remedy else f"{said}."
