"""What may be set, and by whom: the server's settings for all, a client's for itself.

Both are validated whole before anything changes. What is absent from a message stays as it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

from crystools_tpu.environment import checked_price
from crystools_tpu.monitor.monitor import MAX_INTERVAL_SECONDS, MIN_INTERVAL_SECONDS
from crystools_tpu.sources.base import ChipReading, HostReading
from crystools_tpu.telemetry.events import Status
from crystools_tpu.telemetry.profile import DEFAULT_STEPS
from crystools_tpu.telemetry.run_filter import MOST_CHARACTERS, RunFilter

METRICS: Final = frozenset(
    field.name for reading in (ChipReading, HostReading) for field in dataclasses.fields(reading)
) - {"chip", "kind"}


class FieldError(ValueError):
    """Bad input. `field` names what is wrong; the message says what would be right."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's settings, for all of its clients."""

    interval_seconds: Annotated[
        float,
        "seconds between two samples",
        {"minimum": MIN_INTERVAL_SECONDS, "maximum": MAX_INTERVAL_SECONDS},
    ] = 0.5
    disks: Annotated[tuple[str, ...] | None, "the mount points to show, `null` for all that are read"] = None
    price_per_chip_hour: Annotated[
        float | None,
        "what one chip costs for one hour, in your own currency, `null` where nothing is to be said of costs",
        {"exclusiveMinimum": 0},
    ] = None


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """One websocket client's choice.

    `interval_seconds` is 0 for no snapshots and None for the server's own; `metrics` are the fields of
    chips and host to send, None for all.
    """

    interval_seconds: float | None = None
    metrics: frozenset[str] | None = None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object in `text`. Raises FieldError where it is anything else."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise FieldError("body", "body must be JSON (without NaN or Infinity)") from None
    if not isinstance(value, dict):
        raise FieldError("body", "body must be a JSON object")
    return value


def updated_settings(settings: Settings, body: Mapping[str, Any], mounts: Collection[str]) -> Settings:
    """`settings` with the fields of a PUT applied. `mounts` are the disks that this machine has."""
    _check_fields(body, {"interval_seconds", "disks", "price_per_chip_hour"})
    changes = _read(
        body,
        interval_seconds=_interval,
        disks=partial(_names, "disks", mounts),
        price_per_chip_hour=_price,
    )
    return dataclasses.replace(settings, **changes)


def updated_client_settings(settings: ClientSettings, message: Mapping[str, Any]) -> ClientSettings:
    """`settings` with the fields of a `configure` message applied."""
    if message.get("type") != "configure":
        raise FieldError("type", 'type must be "configure"')
    _check_fields(message, {"type", "interval_seconds", "metrics"})
    changes = _read(message, interval_seconds=partial(_interval, zero_allowed=True), metrics=_metrics)
    return dataclasses.replace(settings, **changes)


def requested_steps(body: Mapping[str, Any]) -> Any:
    """How many steps the body of a POST asks to profile; whether that can be is the profiler's to say."""
    _check_fields(body, {"steps"})
    return body.get("steps", DEFAULT_STEPS)


def requested_prompt(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The workflow in the body of a POST, in ComfyUI's form for its API."""
    _check_fields(body, {"prompt"})
    prompt = body.get("prompt")
    if not isinstance(prompt, dict) or not all(map(_is_node, prompt.values())):
        text = "prompt must be a workflow in ComfyUI's form for its API: by id, a class_type and inputs"
        raise FieldError("prompt", text)
    return prompt


def _is_node(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_type"), str)
        and isinstance(value.get("inputs"), dict)
    )


def run_filter(query: Mapping[str, str]) -> RunFilter:
    """The runs that the query of a GET asks for: `text`, `pipeline` and `status`, each as far as it is there.

    Raises FieldError.
    """
    for field in ("text", "pipeline"):
        if len(query.get(field, "")) > MOST_CHARACTERS:
            raise FieldError(field, f"{field} must have at most {MOST_CHARACTERS} characters")
    status = query.get("status", "")
    if status and status not in set(Status):
        raise FieldError("status", f"status must be one of {', '.join(Status)}")
    return RunFilter(query.get("text"), query.get("pipeline"), Status(status) if status else None)


def _read(body: Mapping[str, Any], **readers: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields that the body has, by their readers."""
    return {name: read(body[name]) for name, read in readers.items() if name in body}


def _interval(value: object, *, zero_allowed: bool = False) -> float:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else -1
    if zero_allowed and number == 0:
        return 0.0
    if not MIN_INTERVAL_SECONDS <= number <= MAX_INTERVAL_SECONDS:
        limits = f"from {MIN_INTERVAL_SECONDS:g} to {MAX_INTERVAL_SECONDS:g}"
        off = ", or 0 for no snapshots" if zero_allowed else ""
        raise FieldError("interval_seconds", f"interval_seconds must be a number {limits}{off}")
    return float(number)


def _price(value: object) -> float | None:
    if value is None:
        return None
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    try:
        return checked_price(number)
    except (ValueError, OverflowError):
        text = "price_per_chip_hour must be null or a number above 0, such as 1.20"
        raise FieldError("price_per_chip_hour", text) from None


def _metrics(value: object) -> frozenset[str] | None:
    names = _names("metrics", METRICS, value)
    return None if names is None else frozenset(names)


def _names(field: str, known: Collection[str], value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) and name in known for name in value):
        raise FieldError(field, f"{field} must be null or a list of some of: {', '.join(sorted(known))}")
    return tuple(dict.fromkeys(value))


def _check_fields(body: Mapping[str, Any], own: set[str]) -> None:
    known = own | {"schema"}
    for field in body:
        if field not in known:
            raise FieldError(field, f"{field} is unknown; there are {', '.join(sorted(known))}")
    if body.get("schema", 1) != 1:
        raise FieldError("schema", "schema must be 1")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
