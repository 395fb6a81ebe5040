"""What a run costs, for whoever says what a chip-hour does: the chips it ran on, times how long it took."""

from __future__ import annotations

import math

from crystools_tpu.telemetry.events import RunReport

_SECONDS_AN_HOUR = 3600


def run_cost(report: RunReport, price_per_chip_hour: float | None) -> float | None:
    """In the price's currency; None without a price, while it runs, and where nobody knows its chips."""
    device, seconds = report.device, report.total_seconds
    if price_per_chip_hour is None or device is None or seconds is None:
        return None
    return device.chips * seconds / _SECONDS_AN_HOUR * price_per_chip_hour


def cost_text(report: RunReport, price_per_chip_hour: float | None) -> str | None:
    """`0.49: 8 chips for 184.5 s, at 1.20 a chip-hour`; None where it is not known."""
    cost = run_cost(report, price_per_chip_hour)
    if cost is None or price_per_chip_hour is None or report.device is None:
        return None
    chips = f"{report.device.chips:g} chip{'' if report.device.chips == 1 else 's'}"
    price = amount(price_per_chip_hour)
    return f"{amount(cost)}: {chips} for {report.total_seconds:.1f} s, at {price} a chip-hour"


def amount(value: float) -> str:
    """Of money: `12.30`, and below a tenth two figures: `0.0031`."""
    decimals = 2 if value <= 0 else min(8, max(2, 1 - math.floor(math.log10(value))))
    return f"{value:.{decimals}f}"
