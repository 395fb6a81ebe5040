"""Writes the schemas of the wire and the page's types from the dataclasses: `make schemas`.

A field's name says whether it can be negative: what is counted, a share or bytes cannot. What stands beside
its type (`Annotated`) is a description, or keywords of JSON Schema.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, Union

from crystools_tpu.monitor import Snapshot
from crystools_tpu.server import wire
from crystools_tpu.server.settings import METRICS, Settings
from crystools_tpu.sources.base import ChipReading, HostReading
from crystools_tpu.telemetry import events
from crystools_tpu.telemetry.comparison import Comparison
from crystools_tpu.telemetry.explanation import Explanation

PACKAGE: Final = Path(__file__).parents[1] / "crystools_tpu"

EVENTS: Final[Sequence[Any]] = typing.get_args(events.WireEvent)
TELEMETRY: Final[Sequence[Any]] = (*EVENTS, events.RunReport, Comparison, Explanation)
SERVER: Final[Sequence[Any]] = (
    wire.Hello,
    Snapshot,
    wire.WireError,
    wire.Health,
    wire.PageKey,
    Settings,
    wire.RunsPage,
    wire.Expected,
    wire.RunResult,
    events.ProfileCapture,
    wire.Refusal,
)
TO_THE_PAGE: Final[Mapping[str, Sequence[Any]]] = {
    "TelemetryEvent": EVENTS,
    "ServerMessage": (wire.Hello, Snapshot, wire.WireError),
}

CHOSEN: Final = (ChipReading, HostReading)
"""A metric that a client did not choose is not there. The page fills in null, or an empty list."""

_Json: TypeAlias = dict[str, Any]
_PRIMITIVES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_NEVER_NEGATIVE: Final = ("_bytes", "_count", "_ratio", "_total")
_WIDTH: Final = 100


@dataclass(frozen=True)
class Field:
    """One field of a dataclass as the wire has it. It may be absent where it is `chosen`, or `omitted`."""

    name: str
    hint: Any
    text: str
    keywords: _Json
    chosen: bool
    omitted: bool


def fields_of(cls: Any) -> Iterator[Field]:
    """The fields that travel, in their order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if not field.metadata.get("on_the_wire", True):
            continue
        hint: Any = hints[field.name]
        beside: list[Any] = []
        if typing.get_origin(hint) is Annotated:
            hint, *beside = typing.get_args(hint)
        keywords: _Json = {"minimum": 0} if field.name.endswith(_NEVER_NEGATIVE) else {}
        for more in beside:
            keywords |= more if isinstance(more, dict) else {}
        text = " ".join(more for more in beside if isinstance(more, str))
        chosen = cls in CHOSEN and field.name in METRICS
        yield Field(field.name, hint, text, keywords, chosen, "omit_default" in field.metadata)


class Definitions:
    """The schemas of dataclasses, each defined once; those of `elsewhere` are in the file of that name."""

    def __init__(self, elsewhere: Mapping[str, str] | None = None) -> None:
        self.known: dict[str, _Json] = {}
        self._elsewhere = elsewhere or {}

    def message(self, cls: Any) -> _Json:
        """What travels on its own: `schema` comes first."""
        name = f"{cls.__name__}Message"
        if name not in self._elsewhere and name not in self.known:
            form = self._object(cls)
            self.known[name] = {
                **form,
                "properties": {"schema": {"const": events.WIRE_SCHEMA}, **form["properties"]},
                "required": ["schema", *form["required"]],
            }
        return self._reference(name)

    def _define(self, cls: Any) -> _Json:
        if cls.__name__ not in self._elsewhere and cls.__name__ not in self.known:
            self.known[cls.__name__] = {}
            self.known[cls.__name__] = self._object(cls)
        return self._reference(cls.__name__)

    def _reference(self, name: str) -> _Json:
        return {"$ref": f"{self._elsewhere.get(name, '')}#/$defs/{name}"}

    def _object(self, cls: Any) -> _Json:
        known = list(fields_of(cls))
        return {
            "type": "object",
            "description": inspect.cleandoc(cls.__doc__).split("\n", 1)[0],
            "properties": {field.name: self._property(field) for field in known},
            "required": [field.name for field in known if not (field.chosen or field.omitted)],
            "additionalProperties": False,
        }

    def _property(self, field: Field) -> _Json:
        description = {"description": field.text} if field.text else {}
        return {**description, **self._schema_of(field.hint), **field.keywords}

    def _schema_of(self, hint: Any) -> _Json:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is events.Message:
            return self.message(arguments[0])
        if dataclasses.is_dataclass(hint):
            return self._define(hint)
        if hint in _PRIMITIVES:
            return {"type": _PRIMITIVES[hint]}
        if (values := _values(hint)) is not None:
            return {"enum": values}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self._schema_of(argument) for argument in arguments]}
        if origin is tuple:
            return {"type": "array", "items": self._schema_of(arguments[0])}
        if origin is Mapping:
            return {"type": "object", "additionalProperties": self._schema_of(arguments[1])}
        raise TypeError(f"the wire has no form for {hint!r}")


def wire_schema() -> _Json:
    """The schema (draft 2020-12): any event, a run report, or a comparison of two, and no other field."""
    definitions = Definitions()
    messages = [definitions.message(message) for message in TELEMETRY]
    return _schema("crystools-tpu telemetry", {"oneOf": messages}, definitions)


def server_schema() -> _Json:
    """The schema of the server's own messages and answers, which refers to that of the telemetry."""
    definitions = Definitions(dict.fromkeys(wire_schema()["$defs"], "wire.schema.json"))
    messages = [definitions.message(message) for message in SERVER]
    where = (
        "Run reports are in ../../telemetry/schema/wire.schema.json, to be registered as wire.schema.json."
    )
    return _schema("crystools-tpu server", {"description": where, "anyOf": messages}, definitions)


def _schema(title: str, more: _Json, definitions: Definitions) -> _Json:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **more,
        "$defs": dict(sorted(definitions.known.items())),
    }


class Declarations:
    """The TypeScript declarations of dataclasses and enumerations, each once and after what it names."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def declare(self, cls: Any) -> str:
        """Declares the class, and what it names; its name."""
        if cls.__name__ in self.texts:
            return str(cls.__name__)
        if issubclass(cls, StrEnum):
            values = [json.dumps(value) for value in _values(cls) or ()]
            text = f"{_comment(cls.__doc__)}{_union(f'export type {cls.__name__} =', values)};"
        else:
            lines = [line for field in fields_of(cls) for line in self._property(field)]
            body = "\n".join(f"  {line}" for line in "\n".join(lines).splitlines())
            text = f"{_comment(cls.__doc__)}export interface {cls.__name__} {{\n{body}\n}}"
        self.texts[cls.__name__] = text
        return str(cls.__name__)

    def unite(self, name: str, members: Sequence[str]) -> str:
        """Declares a union; its name."""
        self.texts[name] = f"{_union(f'export type {name} =', members)};"
        return name

    def _property(self, field: Field) -> Iterator[str]:
        if field.text:
            yield f"/** {field.text} */"
        members = self._members(field.hint)
        if field.chosen and not members[0].endswith("[]"):
            members = [*dict.fromkeys([*members, "null"])]
        name = f"{field.name}?" if field.omitted else field.name
        yield f"{_union(f'{name}:', members)};"

    def _members(self, hint: Any) -> list[str]:
        """The types of which it is one."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is events.Message:
            return [self.declare(arguments[0])]
        if hint in _PRIMITIVES:
            return [_PRIMITIVES[hint].replace("integer", "number")]
        if dataclasses.is_dataclass(hint) or (isinstance(hint, type) and issubclass(hint, StrEnum)):
            return [self.declare(hint)]
        if (values := _values(hint)) is not None:
            return [json.dumps(value) for value in values]
        if origin in (Union, types.UnionType):
            return list(dict.fromkeys(each for argument in arguments for each in self._members(argument)))
        if origin is tuple:
            inner = self._members(arguments[0])
            return [f"{inner[0]}[]" if len(inner) == 1 else f"({' | '.join(inner)})[]"]
        if origin is Mapping:
            return [f"Record<string, {' | '.join(self._members(arguments[1]))}>"]
        raise TypeError(f"the page has no type for {hint!r}")


def typescript() -> str:
    """The declarations of all that the page is told."""
    declarations = Declarations()
    for cls in (*TELEMETRY, *SERVER):
        declarations.declare(cls)
    united: list[str] = []
    for name, members in TO_THE_PAGE.items():
        united = [declarations.unite(name, [*(member.__name__ for member in members), *united])]
    head = _comment(
        "The wire: what the server says over the websocket and the JSON API. What is unknown is `null`.\n"
        "Written by `make schemas` from the dataclasses."
    )
    return "\n\n".join([head.rstrip(), *declarations.texts.values()]) + "\n"


def _values(hint: Any) -> list[str] | None:
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return [member.value for member in hint]
    return None


def _union(start: str, members: Sequence[str]) -> str:
    line = f"{start} {' | '.join(members)}"
    return line if len(line) < _WIDTH else "\n".join([start, *(f"  | {member}" for member in members)])


def _comment(text: str | None) -> str:
    lines = re.sub(r"\bNone\b", "null", inspect.cleandoc(text or "")).splitlines()
    if len(lines) == 1:
        return f"/** {lines[0]} */\n"
    return "\n".join(["/**", *(f" * {line}".rstrip() for line in lines), " */\n"])


def outputs() -> dict[Path, str]:
    """The files and what is in them."""
    return {
        PACKAGE / "telemetry/schema/wire.schema.json": json.dumps(wire_schema(), indent=2) + "\n",
        PACKAGE / "server/schema/server.schema.json": json.dumps(server_schema(), indent=2) + "\n",
        PACKAGE / "web/wire.d.ts": typescript(),
    }


if __name__ == "__main__":
    for path, text in outputs().items():
        path.write_text(text)
