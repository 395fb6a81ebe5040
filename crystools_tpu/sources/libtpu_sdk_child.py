"""The process that loads libtpu's SDK: it may stall for minutes or crash, so it is never loaded elsewhere.

Run as a script, with libtpu importable. Says `{"loaded": true}` or `{"absent": why}` when it has tried, then
for every line it is sent `{"metrics": {field: [percent, ...]}}` or `{"error": why}`. All lines are JSON. The
first metrics, which may stall for long, are read before it says that it is loaded. Ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

METRIC_NAMES = {
    "tensorcore_utilization": ("tensorcore_util", "tensorcore_utilization"),
    "hbm_bandwidth_utilization": ("hbm_util", "runtime_hbm_utilization"),
}
"""Names drift between versions of libtpu: the first that has data counts."""


def main() -> None:
    """Answers until standard input ends."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libtpu prints is no answer
    try:
        from libtpu import sdk
    except ImportError as error:
        _say(out, {"absent": str(error)})
        return
    monitoring = getattr(sdk, "tpumonitoring", None) or getattr(sdk, "monitoring", None)
    if monitoring is None:
        _say(out, {"absent": "this libtpu has no monitoring"})
        return
    answer(monitoring)
    _say(out, {"loaded": True})
    for _ in sys.stdin:
        _say(out, answer(monitoring))


def answer(monitoring: Any) -> dict[str, Any]:
    """All fields that have data. An error only if every metric failed."""
    metrics: dict[str, list[float]] = {}
    errors: list[str] = []
    for field, names in METRIC_NAMES.items():
        for name in names:
            try:
                data = [float(text) for text in monitoring.get_metric(name).data()]
            except (RuntimeError, ValueError, KeyError, AttributeError) as error:
                errors.append(f"{name}: {error}")
                continue
            if data:
                metrics[field] = data
                break
    if errors and not metrics:
        return {"error": errors[0]}
    return {"metrics": metrics}


def _say(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
