"""Which of a run's parameters say what it shows, and change no time."""

from __future__ import annotations

from typing import Final

from crystools_tpu.telemetry.events import RunReport

DEFAULT_CONTENT_PARAMS: Final = frozenset({"prompt", "negative_prompt", "seed", "image"})
"""Those of a run that does not say: of another's pipeline, or of before runs said so."""


def content_of(report: RunReport) -> frozenset[str]:
    """The names of the parameters that are the run's content: by its own word, or the default."""
    own = report.content_params
    return DEFAULT_CONTENT_PARAMS if own is None else frozenset(own)
