"""The JSON Schema of the wire, derived from the event dataclasses.

The committed copy is `schema/wire.schema.json`; `python -m crystools_tpu.telemetry.wire_schema` prints it.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Union

from crystools_tpu.telemetry import events
from crystools_tpu.telemetry.comparison import Comparison

_PRIMITIVES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def wire_schema() -> dict[str, Any]:
    """The schema (draft 2020-12): any event, a run report, or a comparison of two, and no other field."""
    definitions: dict[str, Any] = {}
    messages = (*typing.get_args(events.Event), events.RunReport, Comparison)
    for message in messages:
        _define(message, definitions)
        definitions[message.__name__ + "Message"] = _message(definitions[message.__name__])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "crystools-tpu telemetry",
        "oneOf": [{"$ref": f"#/$defs/{message.__name__}Message"} for message in messages],
        "$defs": dict(sorted(definitions.items())),
    }


def _message(definition: dict[str, Any]) -> dict[str, Any]:
    return {
        **definition,
        "properties": {"schema": {"const": events.WIRE_SCHEMA}, **definition["properties"]},
        "required": ["schema", *definition["required"]],
    }


def _define(cls: Any, definitions: dict[str, Any]) -> dict[str, str]:
    if cls.__name__ not in definitions:
        definitions[cls.__name__] = {}
        hints = typing.get_type_hints(cls)
        properties = {f.name: _schema_of(hints[f.name], definitions) for f in dataclasses.fields(cls)}
        definitions[cls.__name__] = {
            "type": "object",
            "description": (cls.__doc__ or "").split("\n", 1)[0],
            "properties": properties,
            "required": [f.name for f in dataclasses.fields(cls) if "omit_default" not in f.metadata],
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{cls.__name__}"}


def _schema_of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return dict(_define(hint, definitions))
    if hint in _PRIMITIVES:
        return {"type": _PRIMITIVES[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"enum": [member.value for member in hint]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema_of(argument, definitions) for argument in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0], definitions)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], definitions)}
    raise TypeError(f"the wire has no form for {hint!r}")


if __name__ == "__main__":
    print(json.dumps(wire_schema(), indent=2))
