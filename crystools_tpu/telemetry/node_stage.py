"""One node of a workflow as a stage: when it was executed, its reports of progress as steps, its memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from crystools_tpu.telemetry.clock import elapsed
from crystools_tpu.telemetry.events import FIRST, FULL, Node, StageReport, Status, StepRecord
from crystools_tpu.telemetry.node_memory import MemoryReading, devices_memory, host_memory
from crystools_tpu.telemetry.step_times import step_statistics

_MOST_STEPS: Final = 1000
"""A node that counts further counts something else: bytes of a download, pixels."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is known of a node that began: `parent` is the id of the node that expanded into it, if one did.

    With `overlaps` other nodes may be executed while it is (an asynchronous one).
    """

    node: Node
    parent: str | None = None
    overlaps: bool = False


class NodeStage:
    """A stage from a node's first start on. Its time stands between `pause` and `resume`."""

    def __init__(
        self, index: int, begun: StageReport, facts: NodeFacts, at: float, memory: MemoryReading | None
    ) -> None:
        self.index = index
        self.facts = facts
        self.has_parts = False
        """Whether something within it reports stages of its own: their steps say more than its progress."""
        self._known = begun
        self._is_known = True
        self._seconds = 0.0
        self._since: float | None = at
        self._before = memory
        self._steps: list[StepRecord] = []
        self._first_steps = 0
        self._counted = self._steps_before_count = self._total = 0
        self._told_at = at
        self._is_counting = False

    @property
    def report(self) -> StageReport:
        """The stage as known so far; final once it has ended."""
        if not self._is_known:
            steps = tuple(self._steps)
            self._known = dataclasses.replace(
                self._known,
                steps=steps,
                steps_total=self._steps_before_count + self._total if steps else None,
                steps_by_kind=self._planned_steps() if steps else None,
                step_seconds=step_statistics(steps),
            )
            self._is_known = True
        return self._known

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._known.status is Status.RUNNING

    def pause(self, at: float) -> None:
        """Another node is executed, no part of this one."""
        if self._since is not None:
            self._seconds += elapsed(self._since, at) or 0.0
            self._since = None

    def resume(self, at: float) -> None:
        """It is executed again, or a node that it expanded into."""
        if self._since is None:
            self._since = at

    def progressed(self, at: float, value: float, total: float) -> list[StepRecord]:
        """The steps since the last report of progress, of which several share their time alike.

        The first also has what the node did before it, unless the node had said that it begins (0 of so
        many). None of a node that counts no steps.
        """
        if self.has_parts or not (0 <= value <= total <= _MOST_STEPS and value == int(value)):
            return []
        if total != self._total or value < self._counted:  # it begins to count, perhaps anew
            self._counted, self._total, self._is_counting = 0, int(total), False
            self._steps_before_count = len(self._steps)
        count, seconds = int(value) - self._counted, elapsed(self._told_at, at)
        kind = FULL if self._is_counting else FIRST
        self._counted, self._told_at, self._is_counting = int(value), at, True
        if count == 0 or seconds is None:
            return []
        new = [StepRecord(seconds / count, False, None, kind)] * count
        self._first_steps += count if kind is FIRST else 0
        self._steps += new
        self._is_known = False
        return new

    def end(self, at: float, status: Status, error: str | None, memory: MemoryReading | None) -> StageReport:
        """Ends the stage; its report."""
        self.pause(at)
        self._known = dataclasses.replace(
            self.report,
            status=status,
            error=error,
            seconds=self._seconds,
            hbm=devices_memory(self._before, memory),
            host_memory=host_memory(self._before, memory),
        )
        return self._known

    def _planned_steps(self) -> Mapping[str, int]:
        total = self._steps_before_count + self._total
        return {FIRST: self._first_steps, FULL: total - self._first_steps}
