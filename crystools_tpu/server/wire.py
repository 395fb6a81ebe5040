"""The server's own messages and answers. `schema/server.schema.json` and the page's types are made of these.

What stands beside a field's type (`Annotated`) describes it: a text, or keywords of JSON Schema.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

from crystools_tpu.monitor import Snapshot, SourceHealth
from crystools_tpu.server.settings import METRICS, Settings
from crystools_tpu.sources.base import AttachedChips
from crystools_tpu.telemetry.events import (
    Message,
    Node,
    ProfileCapture,
    RunReport,
    Shape,
    to_wire,
)

HELLO_RUNS: Final = 20

Simulated: TypeAlias = Annotated[
    str | None, "The simulated machine, such as v6e-8; null where the machine is real."
]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message to a websocket client.

    What is not yet known of other processes' runs follows at once, a `run_changed` each.
    """

    type: Literal["hello"] = field(default="hello", init=False)
    version: str
    simulated: Simulated
    settings: Settings
    runs: Annotated[
        tuple[Message[RunReport], ...],
        "The newest, newest first; one in progress counts as newer.",
        {"maxItems": HELLO_RUNS},
    ]
    traces: Annotated[bool, "Whether /api/runs/{run_id}/trace answers."]
    profile: Annotated[ProfileCapture | None, "The last capture; null where there is no /api/profile."]


@dataclass(frozen=True, slots=True)
class WireError:
    """The answer to a websocket message that was wrong."""

    type: Literal["error"] = field(default="error", init=False)
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Health:
    """GET /api/health."""

    version: str
    host: str
    port: int
    uptime_seconds: Annotated[float, {"minimum": 0}]
    simulated: Simulated
    subscribers: Annotated[int, "The websocket clients that want snapshots.", {"minimum": 0}]
    samples_total: int
    sources: tuple[SourceHealth, ...]
    attached: AttachedChips | None


@dataclass(frozen=True, slots=True)
class PageKey:
    """GET /api/key."""

    key: str


@dataclass(frozen=True, slots=True)
class SearchedTo:
    """Where a search stopped: at this run, which began then."""

    run_id: str
    started_unix_seconds: float


@dataclass(frozen=True, slots=True)
class RunsPage:
    """GET /api/runs, a page of reports, newest first.

    /api/runs/{run_id} answers one report alone, /api/runs/{run_id}/explanation what is to be said of it,
    /api/compare a comparison.
    """

    runs: tuple[Message[RunReport], ...]
    more: Annotated[bool, "Whether there are older ones."]
    unreadable: Annotated[
        tuple[str, ...],
        "The ids of kept runs between them whose reports are broken or of another version.",
    ]
    searched_to: Annotated[
        SearchedTo | None,
        "Where the search stopped for now: to go on, ask for what is before that run. Else null.",
    ] = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """GET /api/runs/{run_id}/result: whether /api/runs/{run_id}/output answers, and with what."""

    media_type: Annotated[str | None, "Of the output, such as video/mp4; null where it is not served."]
    problem: Annotated[str | None, "Why it is not served, in a sentence; null where the run has no output."]


ExpectedBy: TypeAlias = Literal["history", "plan", "scaled"]
"""By what runs of the same workflow took; by the kept plan; by the rate of another run of the same model."""


@dataclass(frozen=True, slots=True)
class ExpectedNode:
    """What is expected of a sampler or a whole pipeline: its own seconds, and whether it fits.

    What is not known is null.
    """

    node: Node
    seconds: Annotated[float | None, {"minimum": 0}]
    fits: bool | None
    reason: Annotated[str | None, "Why it does not fit."]
    would_fit: Annotated[tuple[Shape, ...], "Where it does not: shapes that would."]
    shape_nodes: Annotated[tuple[str, ...], "The ids of the nodes whose widgets say the shape."]
    loras: Annotated[tuple[str, ...], "Its LoRAs as files and scales, as far as the graph says."]


@dataclass(frozen=True, slots=True)
class Expected:
    """POST /api/expected: what is expected of a workflow, before it begins."""

    workflow: Annotated[str | None, "The parameter `workflow` that its run will have."]
    seconds: Annotated[
        float | None,
        "All of it. By `history` as if nothing were cached but `cached_nodes`; by `plan` and `scaled` what "
        "the models compute, without loading and compiling.",
        {"minimum": 0},
    ]
    by: ExpectedBy | None
    cached_nodes: Annotated[int, "So many were cached in the runs that it is known by.", {"minimum": 0}]
    alike_seconds: Annotated[tuple[float, ...], "What those runs took, the newest first."]
    chips: Annotated[float | None, {"minimum": 0}]
    nodes: Annotated[tuple[ExpectedNode, ...], "Its samplers and whole pipelines."]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and what would be right."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The body of a 4xx answer of the API."""

    error: Fault


def dumps(message: Any) -> str:
    """Strict JSON: raises ValueError rather than write NaN. What JSON has no form for is its own text."""
    return json.dumps(message, allow_nan=False, separators=(",", ":"), default=str)


def snapshot_message(
    snapshot: Snapshot, disks: Collection[str] | None = None, metrics: Collection[str] | None = None
) -> dict[str, Any]:
    """The snapshot with only the chosen disks and metrics, None for all."""
    message = to_wire(snapshot)
    host = message["host"]
    if host is not None and disks is not None:
        host["disks"] = [disk for disk in host["disks"] if disk["mount"] in disks]
    left_out = METRICS.difference(METRICS if metrics is None else metrics)
    for reading in (*message["chips"], host or {}):
        for name in left_out:
            reading.pop(name, None)
    return message
