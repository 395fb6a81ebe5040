"""What the user pays for a chip-hour, where the environment or an option says so."""

from __future__ import annotations

import os
from collections.abc import Mapping

from crystools_tpu.cli.errors import CommandError
from crystools_tpu.environment import PRICE, checked_price, price_in


def price_given(option: str | None = None, environ: Mapping[str, str] = os.environ) -> float | None:
    """That of `--price-per-chip-hour`, else the environment's. Raises CommandError for what is no price."""
    said_by = "--price-per-chip-hour" if option is not None else PRICE
    try:
        return price_in(environ) if option is None else checked_price(option)
    except ValueError as error:
        raise CommandError(f"{said_by}: {error}") from None
