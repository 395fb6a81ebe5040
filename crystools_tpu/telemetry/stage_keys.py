"""What a stage of a run is in every run that is like it."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

from crystools_tpu.telemetry.events import StageReport

Key: TypeAlias = tuple[Any, ...]
"""What a stage is in every alike run: its parent's key, name, component, node, how many such come before."""


class StageKeys:
    """Gives the stages of one run their keys, in their order."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self._counts: Counter[Key] = Counter()

    def add(self, stage: StageReport) -> Key:
        """The key of the run's next stage."""
        parent = stage.parent
        above = self.keys[parent] if parent is not None and 0 <= parent < len(self.keys) else None
        such = (above, stage.name, stage.component, None if stage.node is None else stage.node.id)
        key = (*such, self._counts[such])
        self._counts[such] += 1
        self.keys.append(key)
        return key
