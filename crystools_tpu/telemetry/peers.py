"""The earlier runs with which a run is compared, so that its time can be called usual or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from crystools_tpu.telemetry.comparison import is_alike
from crystools_tpu.telemetry.events import MESH, RunReport
from crystools_tpu.telemetry.expectation import MOST_ALIKE

_HOW: Final = frozenset({MESH, "nodes_cached"})
"""Parameters that say how the work was done, and not what it was."""


def earlier_than(run: RunReport, others: Iterable[RunReport]) -> list[RunReport]:
    """Those of the others that began before the run, each once, the newest first."""
    known = {
        other.run_id: other
        for other in others
        if other.run_id != run.run_id and other.started_unix_seconds <= run.started_unix_seconds
    }
    return sorted(known.values(), key=lambda other: -other.started_unix_seconds)


def peers_of(run: RunReport, earlier: Iterable[RunReport]) -> tuple[RunReport, ...]:
    """The last five that are alike. Without any, the last five of the same work that did it otherwise: with
    another mesh, or with other nodes of a workflow in the cache."""
    earlier = tuple(earlier)
    alike = [other for other in earlier if is_alike(run, other)]
    return tuple((alike or [other for other in earlier if is_same_work(run, other)])[:MOST_ALIKE])


def is_same_work(run: RunReport, other: RunReport) -> bool:
    """Whether the other did the same to its end, on the same devices, however it shared the work."""
    return is_alike(_without_how(run), _without_how(other))


def _without_how(run: RunReport) -> RunReport:
    return dataclasses.replace(
        run, params={name: value for name, value in run.params.items() if name not in _HOW}
    )
