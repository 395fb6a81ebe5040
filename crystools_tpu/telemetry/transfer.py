"""How fast bytes come, by the last seconds: a download's rate changes, and its mean would notice late."""

from __future__ import annotations

from collections import deque

_WINDOW_SECONDS = 10.0


class Transfer:
    """What a download has brought so far, and at which rate."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque()

    def add(self, now: float, bytes_done: int) -> None:
        """Takes a reading; those from before the window are forgotten, but for the last of them."""
        self._readings.append((now, bytes_done))
        while len(self._readings) > 2 and self._readings[1][0] <= now - _WINDOW_SECONDS:
            self._readings.popleft()

    @property
    def bytes_done(self) -> int | None:
        """Bytes at the last reading; None without one."""
        return self._readings[-1][1] if self._readings else None

    @property
    def bytes_per_second(self) -> float | None:
        """The rate over the window; None without two readings at different times, or where nothing came."""
        if not self._readings:
            return None
        (start, before), (end, done) = self._readings[0], self._readings[-1]
        return (done - before) / (end - start) if end > start and done > before else None

    def eta_seconds(self, bytes_total: int | None) -> float | None:
        """Seconds that the rest takes at this rate; None where that is not known."""
        rate, done = self.bytes_per_second, self.bytes_done
        if rate is None or done is None or bytes_total is None:
            return None
        return max(0, bytes_total - done) / rate
