"""What of a run's parameters may leave the machine with its traces."""

from __future__ import annotations

from typing import Any, Final

from crystools_tpu.telemetry.events import Params, RunReport
from crystools_tpu.telemetry.text import LARGEST_EXACT_INTEGER

_DIGITS: Final = range(len(str(LARGEST_EXACT_INTEGER)), len(str(2**64)) + 1)


def shareable_params(report: RunReport) -> Params:
    """The parameters that are known, without the user's own words: prompts and other texts of its content.

    A report keeps them; a trace is handed around more lightly, and a collector is read by many. Whatever has
    `prompt` in its name is a prompt, whether the run says so or not.
    """
    content = report.content
    return {
        name: value
        for name, value in report.params.items()
        if value is not None and "prompt" not in name and not (name in content and _is_text(value))
    }


def _is_text(value: Any) -> bool:
    """Whether it is no number. A seed of 64 bits is there as its digits."""
    return isinstance(value, str) and not (value.isdecimal() and len(value) in _DIGITS)
