"""A forecast in words."""

from __future__ import annotations

from crystools_tpu.telemetry.chips import GIB
from crystools_tpu.telemetry.events import Forecast, StageForecast
from crystools_tpu.telemetry.labels import stage_label


def forecast_warning(forecast: Forecast) -> str | None:
    """What is expected not to fit, and what would; None where nothing is."""
    short = shortages(forecast)
    if short is None:
        return None
    shapes = f"; {' or '.join(forecast.would_fit)} would fit" if forecast.would_fit else ""
    return f"does not fit by {short}{shapes}"


def shortages(forecast: Forecast) -> str | None:
    """`the plan: denoise wants 40.10 GiB of a chip's 31.24 GiB`; None where all is expected to fit."""
    failing = [_shortage(stage, forecast) for stage in forecast.stages if stage.fits is False]
    return f"{forecast.method}: {', '.join(failing)}" if failing else None


def _shortage(stage: StageForecast, forecast: Forecast) -> str:
    """`denoise transformer wants 40.10 GiB of a chip's 31.24 GiB`, as far as it is known."""
    label = stage_label(stage)
    wanted, limit = stage.hbm_peak_bytes_per_chip, forecast.hbm_limit_bytes_per_chip
    if wanted is None:
        return label
    of = "" if limit is None else f" of a chip's {limit / GIB:.2f} GiB"
    return f"{label} wants {wanted / GIB:.2f} GiB{of}"
