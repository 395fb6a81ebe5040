"""Seconds and shares as a sentence has them."""

from __future__ import annotations


def duration_text(seconds: float) -> str:
    """`0.052 s`, `4.60 s`, `46.2 s`, `3 min 13 s`, `1 h 05 min`: three digits, as the page has them."""
    if seconds < 1:
        return f"{seconds:.3f} s"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def amount_text(seconds: float) -> str:
    """Of how many seconds a difference is: `0.4 s`, `4.6 s`, `12 s`, from two minutes on as a duration."""
    size = abs(seconds)
    if size >= 120:
        return duration_text(size)
    return f"{size:.0f} s" if size >= 9.95 else f"{size:.1f} s" if size >= 0.095 else f"{size:.3f} s"


def signed_text(seconds: float) -> str:
    """`+12 s`, `-3.1 s`."""
    return f"{'-' if seconds < 0 else '+'}{amount_text(seconds)}"


def share_text(ratio: float) -> str:
    """`3.8%`, from ten on without a decimal."""
    size = abs(ratio) * 100
    return f"{size:.0f}%" if size >= 9.95 else f"{size:.1f}%"


def pace_text(ratio: float) -> str:
    """How much longer something took: `12% slower`, `3.8% faster`, `2.4 times as slow`."""
    if ratio >= 1:
        return f"{ratio + 1:.1f} times as slow"
    return f"{share_text(ratio)} {'slower' if ratio > 0 else 'faster'}"
