"""The committed schema names exactly the fields of the dataclasses behind it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jsonschema
import pytest

from crystools_tpu.monitor import Snapshot, SourceHealth
from crystools_tpu.server.settings import Settings
from crystools_tpu.server.wire import snapshot_message
from crystools_tpu.sources.base import (
    ChipReading,
    DiskReading,
    Durations,
    Histograms,
    HloExecutions,
    HostReading,
)
from crystools_tpu.telemetry import ProfileCapture

from .conftest import PACKAGE


@pytest.fixture(scope="module")
def definitions() -> dict[str, Any]:
    schema = json.loads((PACKAGE / "server/schema/server.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    defined: dict[str, Any] = schema["$defs"]
    return defined


@pytest.mark.parametrize("cls", [ChipReading, DiskReading, HostReading, Settings, SourceHealth])
def test_a_definition_has_the_fields_of_its_dataclass(definitions: dict[str, Any], cls: Any) -> None:
    assert list(definitions[cls.__name__]["properties"]) == [f.name for f in dataclasses.fields(cls)]


def test_a_snapshot_message_is_a_snapshot_without_histograms_and_with_schema_and_type(
    definitions: dict[str, Any],
) -> None:
    fields = [field.name for field in dataclasses.fields(Snapshot) if field.name != "histograms"]
    assert list(definitions["SnapshotMessage"]["properties"]) == ["schema", "type", *fields]


def test_histograms_are_for_scrapes_and_do_not_travel_to_the_page() -> None:
    durations = Durations((1.0,), (1, 0), 0.5)
    histograms = Histograms((HloExecutions("tpu0", "tensor_core", durations),), ())
    without = Snapshot(1.5, False, (), None, ())
    assert snapshot_message(dataclasses.replace(without, histograms=histograms)) == snapshot_message(without)
    assert "histograms" not in snapshot_message(without)


def test_settings_are_the_same_over_http_and_websocket(definitions: dict[str, Any]) -> None:
    answer = definitions["SettingsAnswer"]["properties"]
    assert {"schema": {"const": 1}, **definitions["Settings"]["properties"]} == answer


def test_an_answer_of_the_profiler_is_its_capture(definitions: dict[str, Any]) -> None:
    fields = [field.name for field in dataclasses.fields(ProfileCapture)]
    assert list(definitions["ProfileAnswer"]["properties"]) == ["schema", *fields]
