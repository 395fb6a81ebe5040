"""What exporters read, and the samples that they make of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from crystools_tpu.monitor import Snapshot

MAX_AGE_SECONDS: Final = 0.5
"""A scrape or export takes a snapshot of its own unless there is one so young."""

Labels: TypeAlias = tuple[str, ...]


class Sampler(Protocol):
    """What an exporter needs of a monitor."""

    def sample(self, max_age_seconds: float) -> Snapshot:
        """A snapshot no older than that."""


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation, and the run that it was made in."""

    run_id: str
    value: float
    time_unix_seconds: float


class Histogram:
    """Observations in buckets; `counts` has one entry a bound and a last one for what exceeds them all.

    `exemplars` has the latest observation of each bucket that has one.
    """

    def __init__(
        self, bounds: tuple[float, ...], counts: Iterable[int] | None = None, sum_: float = 0.0
    ) -> None:
        self.bounds = bounds
        self.counts = list(counts) if counts is not None else [0] * (len(bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}
        self.sum = sum_

    def observe(self, exemplar: Exemplar) -> None:
        """Counts one observation."""
        bucket = bisect_left(self.bounds, exemplar.value)
        self.counts[bucket] += 1
        self.exemplars[bucket] = exemplar
        self.sum += exemplar.value


Values: TypeAlias = Iterable[tuple[Labels, float | Histogram | None]]
"""The series of one metric: the values of its labels, and its own, None where that is unknown."""
