"""What of a run's parameters may leave the machine with its traces."""

from __future__ import annotations

from crystools_tpu.telemetry.events import Params


def shareable_params(params: Params) -> Params:
    """The parameters that are known, without the prompts, which are the user's own words.

    A report keeps them; a trace is handed around more lightly, and a collector is read by many.
    """
    return {name: value for name, value in params.items() if value is not None and "prompt" not in name}
