"""Reads a report back from its JSON object: the reverse of `to_wire`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from crystools_tpu.telemetry.events import WIRE_SCHEMA, RunReport


def report_from_wire(value: object) -> RunReport:
    """The report whose `to_wire` this is. Raises ValueError that names the field that is missing or wrong."""
    if not isinstance(value, Mapping) or value.get("schema") != WIRE_SCHEMA:
        raise ValueError(f"this is no run report: a JSON object with schema {WIRE_SCHEMA} was expected")
    report: RunReport = _read(RunReport, value, "report")
    return report


def _read(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) is UnionType:
        if value is None:
            return None
        kinds = [option for option in get_args(kind) if option is not NoneType]
        return _read(kinds[0], value, where) if len(kinds) == 1 else value
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} is no list")
        return tuple(_read(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, where)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if value not in list(kind):
            raise ValueError(f"{where} is none of {', '.join(kind)}")
        return kind(value)
    return value


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is no object")
    hints = _hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.name in value or _is_required(field)]
    missing = [field.name for field in fields if field.name not in value]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return kind(
        **{
            field.name: _read(hints[field.name], value[field.name], f"{where}.{field.name}")
            for field in fields
        }
    )


def _is_required(field: dataclasses.Field[Any]) -> bool:
    """Not so what came later than the first reports: it has a default."""
    return field.default is dataclasses.MISSING


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
