"""What needs a package of an extra, and None where that is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from crystools_tpu.telemetry import RunReport


def trace_renderer() -> Callable[[RunReport], bytes] | None:
    """`perfetto_trace`, whose package (the extra `perfetto`) is imported with the first trace."""
    if importlib.util.find_spec("perfetto") is None:
        return None
    return _render_trace


def _render_trace(report: RunReport) -> bytes:
    from crystools_exporters.perfetto import perfetto_trace

    return perfetto_trace(report)
