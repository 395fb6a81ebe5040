"""Reads a report back from its JSON object: the reverse of `to_wire`.

Whatever is read may be broken, or of another version: all that is wrong with it is a ValueError, and what was
read can be shown, compared and written again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from crystools_tpu.telemetry.events import WIRE_SCHEMA, Params, RunReport

_LARGEST_INT: Final = 2**63
_LARGEST_FLOAT: Final = 1e300
_MOST_SECONDS: Final = 32_503_680_000  # of a moment it is the year 3000: not every calendar goes further
_DEEPEST_PARAMETER: Final = 8


def report_from_json(text: str | bytes) -> RunReport:
    """The report in a JSON text (bytes: UTF-8). Raises ValueError that says what is wrong with it."""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode(), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no JSON: {error.msg} at character {error.pos + 1}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"this is no UTF-8: {error.reason} at byte {error.start + 1}") from None
    except RecursionError:
        raise ValueError("this is no run report: it is nested too deeply") from None
    return report_from_wire(value)


def report_from_wire(value: object) -> RunReport:
    """The report whose `to_wire` this is. Raises ValueError that names the field that is missing or wrong."""
    if not isinstance(value, Mapping) or value.get("schema") != WIRE_SCHEMA:
        raise ValueError(f"this is no run report: a JSON object with schema {WIRE_SCHEMA} was expected")
    try:
        report: RunReport = _reader(RunReport)(value)
    except _WrongError as wrong:
        raise ValueError(f"report{wrong.where} {wrong}") from None
    return report


class _WrongError(Exception):
    """A value that cannot be read; where it is, is put together on the way out."""

    where = ""


def _read_at(where: str, read: _Reader, value: Any) -> Any:
    try:
        return read(value)
    except _WrongError as wrong:
        wrong.where = where + wrong.where
        raise


def _refuse_constant(name: str) -> None:
    raise ValueError(f"this is no JSON: {name} is no number")


_Reader: TypeAlias = Callable[[Any], Any]


@cache
def _reader(kind: Any) -> _Reader:
    """Reads a value of that type, as the dataclasses of events declare it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):  # the latter for a Literal or None
        (known,) = [option for option in arguments if option is not NoneType]
        read = _reader(known)
        return lambda value: None if value is None else read(value)
    if origin is tuple:
        return partial(_read_items, _reader(arguments[0]))
    if kind == Params:
        return _read_parameters
    if origin is Mapping:
        return partial(_read_mapping, _reader(arguments[1]))
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        fields = dataclasses.fields(kind)
        # Not so what came later than the first reports: it has a default.
        required = frozenset(field.name for field in fields if field.default is dataclasses.MISSING)
        readers = {field.name: _reader(hints[field.name]) for field in fields}
        readers |= {
            name: partial(_read_time, read) for name, read in readers.items() if name.endswith("seconds")
        }
        return partial(_read_fields, kind, readers, required)
    if origin is Literal:  # what the word may be is for those who show it: a newer version may know more
        return _read_text
    if issubclass(kind, StrEnum):
        return partial(_read_enum, kind)
    return _SCALARS[kind]


def _read_items(read: _Reader, value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _WrongError("is no list")
    return tuple(_read_at(f"[{index}]", read, item) for index, item in enumerate(value))


def _check_mapping(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise _WrongError("is no object")


def _read_mapping(read: _Reader, value: Any) -> Any:
    _check_mapping(value)
    return {name: _read_at(f".{name}", read, item) for name, item in value.items()}


def _read_fields(kind: Any, readers: Mapping[str, _Reader], required: frozenset[str], value: Any) -> Any:
    _check_mapping(value)
    if missing := [name for name in readers if name in required and name not in value]:
        raise _WrongError(f"lacks {', '.join(missing)}")
    return kind(
        **{name: _read_at(f".{name}", read, value[name]) for name, read in readers.items() if name in value}
    )


def _read_time(read: _Reader, value: Any) -> Any:
    seconds = read(value)
    if isinstance(seconds, (int, float)) and not 0 <= seconds < _MOST_SECONDS:
        raise _WrongError("is no time")
    return seconds


def _read_enum(kind: type[StrEnum], value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise _WrongError(f"is none of {', '.join(kind)}") from None


def _read_exactly(kind: type, what: str, value: Any) -> Any:
    if not isinstance(value, kind):
        raise _WrongError(f"is no {what}")
    return value


_read_text = partial(_read_exactly, str, "text")


def _read_float(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _LARGEST_FLOAT:
        raise _WrongError("is no number, or too large a one")
    return value


def _read_int(value: Any) -> Any:
    if not abs(_read_float(value)) < _LARGEST_INT:
        raise _WrongError("is too large a number")
    if value != int(value):
        raise _WrongError("is no whole number")
    return int(value)


_SCALARS: Final[Mapping[Any, _Reader]] = {
    str: _read_text,
    bool: partial(_read_exactly, bool, "yes or no"),
    float: _read_float,
    int: _read_int,
}


def _read_parameters(value: Any) -> Any:
    """Parameters of any kind, as long as they can be written again."""
    _check_mapping(value)
    if _is_deeper(value, _DEEPEST_PARAMETER):
        raise _WrongError("is nested too deeply")
    return value


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, (Mapping, list, tuple)):
        return False
    items = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in items)
