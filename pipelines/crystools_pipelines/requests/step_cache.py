"""A step cache as it is asked for: by which rule steps are skipped, and how readily."""

from dataclasses import dataclass
from typing import Final, TypeAlias

from crystools_pipelines.errors import RequestError

FORMS: Final = "first-block:THRESHOLD, mag:THRESHOLD[,RETENTION,MAX], taylorseer:INTERVAL or calibrate"


@dataclass(frozen=True)
class FirstBlockCache:
    """Where the first block changes its input by nearly what it did before, the others do too.

    `threshold` is how far the two may be apart, as a relative L1 distance.
    """

    threshold: float

    def __str__(self) -> str:
        return f"first-block:{self.threshold:g}"


@dataclass(frozen=True)
class MagCache:
    """Ratios that are known before the run say how far a step's residual is from the last one.

    Of the steps the first `retention_ratio` are run, and of the rest at most `max_skip_steps` in a row are
    skipped, as long as the error that has come together stays within `threshold`.
    """

    threshold: float
    retention_ratio: float = 0.2
    max_skip_steps: int = 3

    def __str__(self) -> str:
        return f"mag:{self.threshold:g},{self.retention_ratio:g},{self.max_skip_steps}"


@dataclass(frozen=True)
class TaylorSeerCache:
    """Every `interval`-th step is run; what comes between is continued from those by a Taylor series."""

    interval: int

    def __str__(self) -> str:
        return f"taylorseer:{self.interval}"


@dataclass(frozen=True)
class Calibrate:
    """Nothing is skipped; the ratios that MagCache needs are measured and kept."""

    def __str__(self) -> str:
        return "calibrate"


StepCache: TypeAlias = FirstBlockCache | MagCache | TaylorSeerCache | Calibrate


def parse_step_cache(field: str, text: str) -> StepCache:
    """The step cache that the text asks for. Raises RequestError for what asks none."""
    name, _, numbers = text.strip().partition(":")
    parts = [part.strip() for part in numbers.split(",")] if numbers else []
    try:
        match name, parts:
            case "first-block", [threshold]:
                return FirstBlockCache(_positive(threshold))
            case "mag", [threshold]:
                return MagCache(_positive(threshold))
            case "mag", [threshold, retention, most]:
                return MagCache(_positive(threshold), _share(retention), _count(most, 1))
            case "taylorseer", [interval]:
                return TaylorSeerCache(_count(interval, 1))
            case "calibrate", []:
                return Calibrate()
    except ValueError as error:
        raise RequestError(field, f"{text!r}: {error}; give {FORMS}") from None
    raise RequestError(field, f"{text!r} is no step cache; give {FORMS}")


def _positive(text: str) -> float:
    if not 0 <= (value := float(text)) < float("inf"):
        raise ValueError(f"{text} is not 0 or more")
    return value


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise ValueError(f"{text} is not from 0 to 1")
    return value


def _count(text: str, low: int) -> int:
    if (value := int(text)) < low:
        raise ValueError(f"{text} is fewer than {low}")
    return value
