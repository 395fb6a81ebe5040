"""Texts from outside, made safe for whoever gets them: a file, a database, a protocol, a terminal.

The name of a file may hold a lone surrogate, which has no form in UTF-8; an error's message may hold a NUL,
or what moves a terminal's cursor; and either may be endless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Final

MOST_CHARACTERS: Final = 65536
"""A text has no more: the rest is left out, and that is said."""

LARGEST_EXACT_INTEGER: Final = 2**53 - 1
"""JavaScript, and much else that reads JSON, rounds what lies beyond it."""

# Control characters but for tab and the two of line ends, and halves of surrogate pairs.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

Scalar = str | int | float | bool | None


def safe_text(value: object) -> str:
    r"""The value as text that can be written anywhere; what cannot is there as its escape (`\udcff`, `\x00`).

    Never raises: of a value whose own text fails, it is the name of its type.
    """
    if type(value) is str and len(value) <= MOST_CHARACTERS and value.isprintable():
        return value  # as nearly all are
    whole = _text_of(value)
    text = whole if len(whole) <= MOST_CHARACTERS else whole[:MOST_CHARACTERS]
    if not text.isprintable():
        text = _UNSAFE.sub(_escape, text)
    if len(whole) > MOST_CHARACTERS or len(text) > MOST_CHARACTERS:
        end = f"… (of {len(whole)} characters)"
        text = text[: MOST_CHARACTERS - len(end)] + end
    return text


def safe_params(params: Mapping[Any, Any]) -> dict[str, Scalar]:
    """Parameters as a report has them: what is no number, boolean or None is there as its text.

    So is a whole number that not every reader of JSON could keep, such as a seed of 64 bits.
    """
    return {safe_text(name): _scalar(value) for name, value in params.items()}


def describe_error(error: BaseException | None) -> str | None:
    """`ValueError: what it says`, for the report."""
    return None if error is None else f"{type(error).__name__}: {safe_text(error)}".rstrip(": ")


def _scalar(value: Any) -> Scalar:
    if value is None or type(value) in (bool, float):
        return value  # type: ignore[no-any-return]
    if isinstance(value, Integral):
        number = int(value)
        if abs(number) <= LARGEST_EXACT_INTEGER:
            return number
        return str(number) if number.bit_length() <= 64 else safe_text(hex(number))
    if isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:
            return safe_text(value)
    return safe_text(value)


def _text_of(value: object) -> str:
    try:
        return str.__str__(value) if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001 - whatever its own method raises
        return f"<{type(value).__name__}>"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
