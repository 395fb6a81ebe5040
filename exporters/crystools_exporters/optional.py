"""What needs a package of an extra, and None where that is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from crystools_tpu.imports import import_failure
from crystools_tpu.telemetry import RunReport


def trace_renderer() -> Callable[[RunReport], bytes] | None:
    """`perfetto_trace`, whose package (the extra `perfetto`) is imported with the first trace.

    Where that is there and yet cannot be imported, the trace is an ImportError that says why and what helps.
    """
    if importlib.util.find_spec("perfetto") is None:
        return None
    return _render_trace


def _render_trace(report: RunReport) -> bytes:
    try:
        from crystools_exporters.perfetto import perfetto_trace
    except Exception as error:
        if (failure := import_failure(error)) is None:
            raise
        cure = failure.cure("pip install 'crystools-tpu[perfetto]'")
        raise ImportError(f"{failure.reason}: {cure}") from error

    return perfetto_trace(report)
