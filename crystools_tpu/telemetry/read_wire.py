"""Reads a report back from its JSON object: the reverse of `to_wire`.

Whatever is read may be broken, or of another version: all that is wrong with it is a ValueError, and what was
read can be shown, compared and written again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from crystools_tpu.telemetry.events import WIRE_SCHEMA, RunReport

_LARGEST_INT: Final = 2**63
_LARGEST_FLOAT: Final = 1e300
_LAST_UNIX_SECONDS: Final = 32_503_680_000  # the year 3000: not every calendar goes further
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
    report: RunReport = _read(RunReport, value, "report")
    return report


def _refuse_constant(name: str) -> None:
    raise ValueError(f"this is no JSON: {name} is no number")


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        if value is None and NoneType in arguments:
            return None
        (kind,) = [option for option in arguments if option is not NoneType]
        return _read(kind, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} is no list")
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        return _read_parameters(value, where)
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, where)
    if origin is not Literal and issubclass(kind, StrEnum):
        if value not in list(kind):
            raise ValueError(f"{where} is none of {', '.join(kind)}")
        return kind(value)
    # What a word may be is for those who show it: a newer version may know more of them.
    return _read_scalar(str if origin is Literal else kind, value, where)


def _read_scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float or kind is int:
        largest = _LARGEST_FLOAT if kind is float else _LARGEST_INT
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < largest:
            raise ValueError(f"{where} is no number, or too large a one")
        if kind is int and value != int(value):
            raise ValueError(f"{where} is no whole number")
        return kind(value) if kind is int else value
    if not isinstance(value, kind):
        raise ValueError(f"{where} is no {'text' if kind is str else 'yes or no'}")
    return value


def _read_parameters(value: Any, where: str) -> Any:
    """They are whatever the run was given, as long as it can be written again."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is no object")
    if _is_deeper(value, _DEEPEST_PARAMETER):
        raise ValueError(f"{where} is nested too deeply")
    return value


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, (Mapping, list, tuple)):
        return False
    items = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in items)


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is no object")
    hints = _hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.name in value or _is_required(field)]
    missing = [field.name for field in fields if field.name not in value]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    read = {
        field.name: _read(hints[field.name], value[field.name], f"{where}.{field.name}") for field in fields
    }
    for name, moment in read.items():
        if name.endswith("_unix_seconds") and not 0 <= moment < _LAST_UNIX_SECONDS:
            raise ValueError(f"{where}.{name} is no moment")
    return kind(**read)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    """Not so what came later than the first reports: it has a default."""
    return field.default is dataclasses.MISSING


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
