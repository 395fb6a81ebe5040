"""How long, and how much of, the history is kept; as text such as `90d,1GiB`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_AGE_SECONDS: Final = {"h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE_BYTES: Final = {"kib": 1024, "mib": 1024**2, "gib": 1024**3, "kb": 1000, "mb": 1000**2, "gb": 1000**3}


@dataclass(frozen=True, slots=True)
class Retention:
    """Older runs are deleted, then the oldest until the reports are no larger; None is no limit."""

    max_age_seconds: float | None = 90 * 86400.0
    max_bytes: int | None = 1024**3


def parse_retention(text: str) -> Retention:
    """`90d,1GiB`, or one of the two. Raises ValueError for anything else."""
    age: float | None = None
    size: int | None = None
    for part in text.split(","):
        if part.strip().lower()[-1:] == "b":
            size = parse_size_bytes(part)
        else:
            age = parse_age_seconds(part)
    return Retention(age, size)


def parse_age_seconds(text: str) -> float:
    """`12h`, `90d` or `4w`. Raises ValueError for anything else."""
    return _parse(text, _AGE_SECONDS, "an age is a number of hours, days or weeks, such as 12h, 90d or 4w")


def parse_size_bytes(text: str) -> int:
    """`500MB` or `1GiB`, or the largest number that SQLite takes. Raises ValueError for anything else."""
    return min(
        2**63 - 1, int(_parse(text, _SIZE_BYTES, "a size is a number with its unit, such as 500MB or 1GiB"))
    )


def _parse(text: str, units: dict[str, int], expected: str) -> float:
    found = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if found is None or found[2] not in units:
        raise ValueError(f"{text!r} is not understood: {expected}")
    return float(found[1]) * units[found[2]]
