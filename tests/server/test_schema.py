"""What travels, and what does not: the committed schemas are valid and name nothing of this process alone."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jsonschema
import pytest

from crystools_tpu.monitor import Snapshot
from crystools_tpu.server.wire import snapshot_message
from crystools_tpu.sources.base import Durations, Histograms, HloExecutions

from .conftest import PACKAGE


@pytest.fixture(scope="module")
def definitions() -> dict[str, Any]:
    schema = json.loads((PACKAGE / "server/schema/server.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    defined: dict[str, Any] = schema["$defs"]
    return defined


def test_a_snapshot_message_is_a_snapshot_without_histograms_and_with_schema_and_type(
    definitions: dict[str, Any],
) -> None:
    fields = [field.name for field in dataclasses.fields(Snapshot) if field.name != "histograms"]
    assert list(definitions["SnapshotMessage"]["properties"]) == ["schema", *fields]
    assert fields[0] == "type"


def test_histograms_are_for_scrapes_and_do_not_travel_to_the_page() -> None:
    durations = Durations((1.0,), (1, 0), 0.5)
    histograms = Histograms((HloExecutions("tpu0", "tensor_core", durations),), ())
    without = Snapshot(1.5, False, (), None, ())
    assert snapshot_message(dataclasses.replace(without, histograms=histograms)) == snapshot_message(without)
    assert "histograms" not in snapshot_message(without)


def test_settings_are_the_same_over_http_and_websocket(definitions: dict[str, Any]) -> None:
    answer = definitions["SettingsMessage"]["properties"]
    assert {"schema": {"const": 1}, **definitions["Settings"]["properties"]} == answer


def test_only_a_metric_that_a_client_may_leave_out_need_not_be_there(definitions: dict[str, Any]) -> None:
    optional = {
        name: set(defined["properties"]) - set(defined["required"]) for name, defined in definitions.items()
    }
    assert optional.pop("ChipReading") == set(definitions["ChipReading"]["properties"]) - {"chip", "kind"}
    assert optional.pop("HostReading") == set(definitions["HostReading"]["properties"])
    assert set().union(*optional.values()) == set()
