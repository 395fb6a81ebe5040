"""Which runs somebody looks for: the same for a server's page and for the command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crystools_tpu.telemetry.events import RunReport, Status

MOST_CHARACTERS: Final = 200
"""A text to look for has no more."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """What a run must have to be found; what is None, or an empty text, any run has.

    All words of `text` have to be in its prompt, name, id, model or pipeline, whatever the case of their
    letters. `pipeline` is the run's own, or that of a stage: of a workflow that made use of the model.
    """

    text: str | None = None
    pipeline: str | None = None
    status: Status | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """What has to be found."""
        return tuple((self.text or "")[:MOST_CHARACTERS].split())

    def __bool__(self) -> bool:
        return bool(self.words or self.pipeline or self.status)

    def matches(self, run: RunReport) -> bool:
        """Whether the run is one of them."""
        stages = [stage.pipeline for stage in run.stages]
        texts = (run.name, run.run_id, run.model_id, run.params.get("prompt"))
        return self._matches(run.status, run.pipeline, stages, texts)

    def matches_wire(self, run: Mapping[str, Any]) -> bool:
        """Whether the run is one of them whose `to_wire` this is, in which something may be missing."""
        stages = [stage.get("pipeline") for stage in run.get("stages", ())]
        texts = (run.get("name"), run["run_id"], run["model_id"], run["params"].get("prompt"))
        return self._matches(run["status"], run["pipeline"], stages, texts)

    def _matches(self, status: str, own: str, of_stages: Iterable[Any], texts: Iterable[Any]) -> bool:
        pipelines = {own, *of_stages}
        if self.status not in (None, status) or (self.pipeline and self.pipeline not in pipelines):
            return False
        whole = "\n".join(text for text in (*texts, *pipelines) if isinstance(text, str)).lower()
        return all(word.lower() in whole for word in self.words)
