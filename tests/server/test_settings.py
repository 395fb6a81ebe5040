"""Settings are validated whole, then applied whole; each fault is named with its remedy."""

from __future__ import annotations

from typing import Any

import pytest

from crystools_tpu.server.settings import (
    ClientSettings,
    FieldError,
    Settings,
    parse_object,
    updated_client_settings,
    updated_settings,
)

MOUNTS = ("/", "/data")


def test_the_defaults_are_half_a_second_and_all_disks() -> None:
    assert Settings() == Settings(interval_seconds=0.5, disks=None)
    assert ClientSettings() == ClientSettings(interval_seconds=None, metrics=None)


def test_all_fields_are_applied_together() -> None:
    body = {"schema": 1, "interval_seconds": 2, "disks": ["/data"]}
    assert updated_settings(Settings(), body, MOUNTS) == Settings(2.0, ("/data",))


def test_a_field_that_is_absent_stays_as_it_was() -> None:
    before = Settings(2.0, ("/data",))
    assert updated_settings(before, {}, MOUNTS) == before
    assert updated_settings(before, {"disks": None}, MOUNTS) == Settings(2.0, None)


@pytest.mark.parametrize("seconds", [0.1, 60, 0.25])
def test_an_interval_within_its_limits_is_taken(seconds: float) -> None:
    assert updated_settings(Settings(), {"interval_seconds": seconds}, MOUNTS).interval_seconds == seconds


@pytest.mark.parametrize("seconds", [0, -1, 0.09, 60.1, "1", None, True, [], float("nan")])
def test_any_other_interval_is_refused(seconds: object) -> None:
    with pytest.raises(FieldError, match=r"interval_seconds must be a number from 0\.1 to 60$") as refused:
        updated_settings(Settings(), {"interval_seconds": seconds}, MOUNTS)
    assert refused.value.field == "interval_seconds"


@pytest.mark.parametrize("disks", ["/", ["/etc"], [1], {}, ["/", "/../etc"]])
def test_a_disk_that_this_machine_lacks_is_refused(disks: object) -> None:
    with pytest.raises(FieldError, match="disks must be null or a list of some of: /, /data") as refused:
        updated_settings(Settings(), {"disks": disks}, MOUNTS)
    assert refused.value.field == "disks"


@pytest.mark.parametrize("price", [1, 1.2, 0.000001, None])
def test_a_price_is_a_number_above_nothing_or_none(price: float | None) -> None:
    assert updated_settings(Settings(), {"price_per_chip_hour": price}, MOUNTS).price_per_chip_hour == price


@pytest.mark.parametrize("price", [0, -1.2, "1.20", True, [], float("inf"), 10**400])
def test_any_other_price_is_refused(price: object) -> None:
    said = "price_per_chip_hour must be null or a number above 0, such as 1.20"
    with pytest.raises(FieldError, match=said) as refused:
        updated_settings(Settings(), {"price_per_chip_hour": price}, MOUNTS)
    assert refused.value.field == "price_per_chip_hour"


def test_an_unknown_field_is_refused_by_its_name() -> None:
    with pytest.raises(
        FieldError, match="rate is unknown; there are disks, interval_seconds, price_per_chip_hour, schema"
    ):
        updated_settings(Settings(), {"interval_seconds": 1, "rate": 2}, MOUNTS)


def test_another_schema_is_refused() -> None:
    with pytest.raises(FieldError, match="schema must be 1"):
        updated_settings(Settings(), {"schema": 2}, MOUNTS)


def test_a_client_chooses_its_rate_and_its_metrics() -> None:
    message = {"type": "configure", "interval_seconds": 1.5, "metrics": ["duty_cycle_ratio", "disks"]}
    assert updated_client_settings(ClientSettings(), message) == ClientSettings(
        1.5, frozenset({"duty_cycle_ratio", "disks"})
    )


def test_a_client_may_want_no_snapshots() -> None:
    message = {"type": "configure", "interval_seconds": 0, "metrics": None}
    assert updated_client_settings(ClientSettings(), message).interval_seconds == 0


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({}, "type"),
        ({"type": "hello"}, "type"),
        ({"type": ["configure"]}, "type"),
        ({"type": "configure", "interval_seconds": 0.05}, "interval_seconds"),
        ({"type": "configure", "interval_seconds": -1}, "interval_seconds"),
        ({"type": "configure", "metrics": ["mfu"]}, "metrics"),
        ({"type": "configure", "metrics": "disks"}, "metrics"),
        ({"type": "configure", "metrics": [["disks"]]}, "metrics"),
        ({"type": "configure", "width": 60}, "width"),
    ],
)
def test_a_client_message_that_is_wrong_is_refused_by_field(message: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError, match=f"^{field} ") as refused:
        updated_client_settings(ClientSettings(), message)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "null", '{"a": NaN}', "[" * 60_000, b"\xff", "9" * 9999]
)
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(FieldError, match=r"^body must be") as refused:
        parse_object(text)
    assert refused.value.field == "body"
