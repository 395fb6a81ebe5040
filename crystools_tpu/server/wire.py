"""The server's own messages as JSON objects; `schema/server.schema.json` describes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable
from typing import Any, Final

from crystools_tpu.monitor import Snapshot
from crystools_tpu.server.settings import METRICS, Settings
from crystools_tpu.telemetry.events import WIRE_SCHEMA, ProfileCapture, RunReport, plain, to_wire

_SNAPSHOT_FIELDS: Final = tuple(f.name for f in dataclasses.fields(Snapshot) if f.name != "histograms")


def dumps(message: dict[str, Any]) -> str:
    """Strict JSON: raises ValueError rather than write NaN. What JSON has no form for is its own text."""
    return json.dumps(message, allow_nan=False, separators=(",", ":"), default=str)


def message(**fields: Any) -> dict[str, Any]:
    """An object with `schema` first."""
    return {"schema": WIRE_SCHEMA, **fields}


def snapshot_message(
    snapshot: Snapshot, disks: Collection[str] | None = None, metrics: Collection[str] | None = None
) -> dict[str, Any]:
    """The snapshot with only the chosen disks and metrics, None for all; never the histograms."""
    body = {name: plain(getattr(snapshot, name)) for name in _SNAPSHOT_FIELDS}
    host = body["host"]
    if host is not None and disks is not None:
        host["disks"] = [disk for disk in host["disks"] if disk["mount"] in disks]
    left_out = METRICS.difference(METRICS if metrics is None else metrics)
    for reading in (*body["chips"], host or {}):
        for name in left_out:
            reading.pop(name, None)
    return message(type="snapshot", **body)


def hello_message(
    version: str,
    simulated: str | None,
    settings: Settings,
    reports: Iterable[RunReport],
    *,
    traces: bool,
    profile: ProfileCapture | None,
) -> dict[str, Any]:
    """What a websocket client hears first; `traces` and `profile` say what else it may ask for."""
    return message(
        type="hello",
        version=version,
        simulated=simulated,
        settings=plain(settings),
        runs=[to_wire(report) for report in reports],
        traces=traces,
        profile=plain(profile),
    )


def error_message(field: str, text: str) -> dict[str, Any]:
    """The answer to a bad websocket message."""
    return message(type="error", field=field, message=text)
