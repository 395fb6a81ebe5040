"""The largest size that fits, from few measurements: memory grows in a line with the number of tokens."""

from collections.abc import Callable, Mapping, Sequence


def largest_that_fits(sizes: Sequence[int], peak_of: Callable[[int], int], limit: int) -> int | None:
    """The largest of `sizes` whose peak is at most `limit`, by a line through two small ones; else None.

    `sizes` ascend, and are those below one that does not fit; `peak_of` measures one, which is costly. The
    answer was always measured. Where the line was wrong, it is drawn anew through what was measured since.
    """
    if not sizes:
        return None
    peaks = {size: peak_of(size) for size in {_nearest(sizes, sizes[-1] / 4), _nearest(sizes, sizes[-1] / 2)}}
    while True:
        best = max((size for size, peak in peaks.items() if peak <= limit), default=0)
        too_large = min((size for size, peak in peaks.items() if peak > limit), default=sizes[-1] + 1)
        guess = _guess([size for size in sizes if best < size < too_large], peaks, limit)
        if guess is None:
            return best or None
        peaks[guess] = peak_of(guess)
        if peaks[guess] <= limit:
            return guess


def _guess(sizes: Sequence[int], peaks: Mapping[int, int], limit: int) -> int | None:
    """The largest of `sizes` that the line through the two largest measured ones has within the limit."""
    *_, first, second = (0, *sorted(peaks))
    slope = (peaks[second] - peaks.get(first, 0)) / (second - first)
    fitting = (size for size in sizes if peaks[second] + slope * (size - second) <= limit)
    return max(fitting, default=None)


def _nearest(sizes: Sequence[int], wanted: float) -> int:
    return min(sizes, key=lambda size: abs(size - wanted))
