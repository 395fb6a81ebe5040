"""The event model: everything that the telemetry layer says about a run.

Each event is a frozen dataclass. `to_wire()` turns any event or report into the JSON object that the
websocket, the report file and the web page read; its schema is `schema/wire.schema.json`. A field whose
value is unknown is `None` here and `null` there, never 0 or a guess.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from crystools_tpu.telemetry.text import safe_params, safe_text

WIRE_SCHEMA = 1

FULL: Final = "full"
"""The kind of a step that is like every other."""

CACHED: Final = "cached"
"""The kind of a step that a step cache has skipped."""

FIRST: Final = "first"
"""The kind of a workflow node's first step, which also has what the node did before it."""

DEFAULT_CONTENT_PARAMS: Final = frozenset({"prompt", "negative_prompt", "seed", "image"})
"""The content of a run that does not say: of another's pipeline, or of before runs said so."""

MESH: Final = "mesh"
"""The parameter that says how the devices shared the work, `dp=2,sp=1,tp=4`."""

STEP_CACHE: Final = "step_cache"
"""The parameter that says by which rule steps are skipped, `mag:0.12,0.2,3`."""

OMIT_DEFAULT: Final = {"omit_default": True}
"""The metadata of a field that the wire carries only where it is not its default."""


class StageName(StrEnum):
    """The stages a pipeline may report. A stage may occur several times in a run (one `load` a component).

    `node` is a node of a workflow, which has others in it; a pipeline does not report it.
    """

    DOWNLOAD = "download"
    LOAD = "load"
    TEXT_ENCODE = "text_encode"
    IMAGE_ENCODE = "image_encode"
    DENOISE = "denoise"
    VAE_ENCODE = "vae_encode"
    VAE_DECODE = "vae_decode"
    SAVE = "save"
    NODE = "node"


class Status(StrEnum):
    """How a run or stage stands; all but `RUNNING` are final.

    `INTERRUPTED`: its process ended without a word (killed, or the machine went down), as the history found
    out later.
    """

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class CompileCache(StrEnum):
    """What the persistent compilation cache did for a compile."""

    HIT = "hit"
    MISS = "miss"
    OFF = "off"


class CaptureStatus(StrEnum):
    """How a capture of jax's profiler stands; `waiting` is for a run's next step."""

    IDLE = "idle"
    WAITING = "waiting"
    CAPTURING = "capturing"
    WRITTEN = "written"
    FAILED = "failed"


class Bound(StrEnum):
    """What limits a stage: the roofline's verdict, or the host where the device waited for it."""

    COMPUTE = "compute"
    BANDWIDTH = "bandwidth"
    HOST = "host"


Params: TypeAlias = Mapping[str, str | int | float | bool | None]


class _Safe:
    """What is said of a run. All its texts are safe from its making on, wherever they come from."""

    __slots__ = ()

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, made_safe in _texts(kind):
            value = getattr(self, name)
            if value:
                safe = made_safe(value)
                if safe is not value:
                    object.__setattr__(self, name, safe)


_MADE_SAFE: Final[Mapping[str, Callable[[Any], Any]]] = {
    "str": safe_text,
    "str | None": safe_text,
    "tuple[str, ...]": lambda texts: tuple(map(safe_text, texts)),
    "tuple[str, ...] | None": lambda texts: tuple(map(safe_text, texts)),
    "Params": safe_params,
}
"""By a field's type, as it is written below."""


@functools.cache
def _texts(kind: Any) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """The fields that hold text, and what makes each safe."""
    written = [(f.name, str(f.type)) for f in dataclasses.fields(kind)]
    return tuple((name, _MADE_SAFE[type_]) for name, type_ in written if type_ in _MADE_SAFE)


@dataclass(frozen=True, slots=True)
class Ratio(_Safe):
    """A ratio that carries what it was made of. `ratio = numerator / denominator`, 0..1."""

    ratio: float
    numerator: float
    denominator: float
    unit: Literal["flop", "byte"]
    method: str


@dataclass(frozen=True, slots=True)
class HbmUsage(_Safe):
    """Device memory of one chip over one stage, in bytes. `method` says how it was read.

    `peak_bytes` is the exact peak where the method is `memory_stats`, jax's, or `torch_memory_stats`, and the
    allocator's peak rose in this stage; otherwise it is the largest of the samples taken (`..._sampled`,
    `live_arrays`).
    """

    device: str
    before_bytes: int
    peak_bytes: int
    after_bytes: int
    limit_bytes: int | None
    method: Literal[
        "memory_stats",
        "memory_stats_sampled",
        "live_arrays",
        "torch_memory_stats",
        "torch_memory_stats_sampled",
    ]


@dataclass(frozen=True, slots=True)
class HostMemory:
    """What this process held of the host's memory over one stage, in bytes (resident set).

    `peak_bytes` is exact where the process's own peak rose in this stage, else the larger of both ends.
    """

    before_bytes: int
    peak_bytes: int
    after_bytes: int


@dataclass(frozen=True, slots=True)
class Node(_Safe):
    """A node of a workflow: its id there, its class, and its title where it has one of its own."""

    id: str
    class_type: str
    title: str | None


@dataclass(frozen=True, slots=True)
class Process(_Safe):
    """The process that a run is of: its id, its user's name, and what it was started as (`generate`)."""

    pid: int
    user: str | None
    program: str | None


@dataclass(frozen=True, slots=True)
class StepRecord(_Safe):
    """One step as the device ran it.

    `compiled` marks a step in which a compile fell (left out of the statistics). `finite` is the
    device's own `isfinite(latents).all()`, None where the pipeline did not compute it. `kind` is the
    pipeline's own word for steps that take alike.
    """

    seconds: float
    compiled: bool
    finite: bool | None
    kind: str = field(default=FULL, metadata=OMIT_DEFAULT)


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Statistics over steps in which no compile fell."""

    median: float
    p95: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class CompileRecord(_Safe):
    """One backend compile (or its retrieval from the cache): of what, when it ended, and how long it took.

    `reason` is jax's own explanation, where it gives one.
    """

    function: str | None
    finished_unix_seconds: float
    seconds: float
    cache: CompileCache
    reason: str | None


@dataclass(frozen=True, slots=True)
class StageForecast(_Safe):
    """What is expected of one stage. What is not known is None.

    `step_seconds` is the mean of its steps, without compile; `hbm_peak_bytes_per_chip` what the stage itself
    must hold of a chip.
    """

    name: StageName
    component: str | None
    fits: bool | None
    step_seconds: float | None
    hbm_peak_bytes_per_chip: int | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What is made: pixels and, of a video, frames."""

    height: int
    width: int
    num_frames: int | None = None

    def __str__(self) -> str:
        return f"{self.height} x {self.width}" + (f", {self.num_frames} frames" if self.num_frames else "")


@dataclass(frozen=True, slots=True)
class Forecast(_Safe):
    """What is expected of a run, said before it begins. `method` says where it comes from.

    `hbm_limit_bytes_per_chip` is what programs may have of a chip; `would_fit` are shapes that would fit, in
    words, where a stage does not, and `fitting_shapes` the same for programs, where they are known so.
    """

    method: str
    hbm_limit_bytes_per_chip: int | None
    stages: tuple[StageForecast, ...]
    would_fit: tuple[str, ...] = ()
    fitting_shapes: tuple[Shape, ...] = field(default=(), metadata=OMIT_DEFAULT)


@dataclass(frozen=True, slots=True)
class StageWork(_Safe):
    """A stage that a run is to have, and the model FLOPs of all its steps, over all devices."""

    name: StageName
    component: str | None
    steps: int
    flops: float


@dataclass(frozen=True, slots=True)
class StageReport(_Safe):
    """One stage of one run. Durations in seconds; `flops` is the stage's model FLOPs over all its steps.

    `recompiles` counts the steps after the first in which something was compiled, with a reason each.
    `compile_seconds` is trace, lowering and backend together; `compiles` are the backend's.
    `predicted_step_seconds` and `predicted_hbm_peak_bytes` are the forecast's, the latter of one of `hbm`'s
    devices. `bytes_done` of `bytes_total` are what a download has brought. `steps_by_kind` is `steps_total`
    by kind, None where all are `full` or the kinds to come are not known. `step_seconds` leaves out the steps
    that a step cache has skipped (kind `cached`), for they take other seconds; `step_seconds_by_kind` has
    each kind's own, and is None where only full ones were timed. With `device_decides` nobody knows before
    which those are: the device says of each step whether it is skipped. `flops`, `mfu` and `mbu` are of what
    was computed, of skipped steps what is left of them. `host_wait_seconds` of the steps in which no compile
    fell the devices had nothing to do, because the host had not handed them the next yet.

    `parent` is the position in the run's `stages` of the stage that this one is a part of: its time is in
    that one's, and `pipeline` is the one that reports it. A `node` is a stage of a workflow's run,
    `component` its class; while it waits for other nodes, which are no part of it, its time stands. Those
    that are executed at the same time (asynchronous ones) overlap.
    """

    name: StageName
    component: str | None
    status: Status
    error: str | None
    started_unix_seconds: float
    seconds: float | None
    compile_seconds: float
    compile_cache: CompileCache | None
    compiles: tuple[CompileRecord, ...]
    recompiles: int
    recompile_reasons: tuple[str, ...]
    steps_total: int | None
    steps: tuple[StepRecord, ...]
    step_seconds: StepSeconds | None
    first_nonfinite_step: int | None
    flops: float | None
    flops_method: str | None
    mfu: Ratio | None
    mbu: Ratio | None
    bound: Bound | None
    hbm: tuple[HbmUsage, ...]
    # A report of before there were these has none of them, and is read all the same.
    predicted_step_seconds: float | None = None
    predicted_hbm_peak_bytes: int | None = None
    bytes_total: int | None = None
    bytes_done: int | None = None
    steps_by_kind: Mapping[str, int] | None = field(default=None, metadata=OMIT_DEFAULT)
    parent: int | None = field(default=None, metadata=OMIT_DEFAULT)
    pipeline: str | None = field(default=None, metadata=OMIT_DEFAULT)
    node: Node | None = field(default=None, metadata=OMIT_DEFAULT)
    host_memory: HostMemory | None = field(default=None, metadata=OMIT_DEFAULT)
    host_wait_seconds: float | None = field(default=None, metadata=OMIT_DEFAULT)
    step_seconds_by_kind: Mapping[str, StepSeconds] | None = field(default=None, metadata=OMIT_DEFAULT)
    device_decides: bool = field(default=False, metadata=OMIT_DEFAULT)


EtaBy: TypeAlias = Literal["history", "plan", "steps"]


@dataclass(frozen=True, slots=True)
class StageProgress(_Safe):
    """How a running stage stands, as everybody shows it. What its report has too is newer here.

    `eta_seconds` is what it has still to go from now on; with `eta_by_forecast` it is the forecast's alone
    and stands, for a compile may precede the first step. `mfu`, `mbu` and `bound` are of the latest step
    without a compile that was not skipped, of all so far for who has not heard of it. `bytes_per_second` is a
    download's rate.

    `run_eta_seconds` is what the whole run has still to go, this stage and all those to come, and
    `run_eta_by` says by what that is known best: alike runs of the `history`, the `plan`, or this run's own
    `steps`. The latter two are without loading and saving, which nobody knows then.
    """

    eta_seconds: float | None
    eta_by_forecast: bool
    step_seconds: StepSeconds | None
    first_nonfinite_step: int | None
    compile_seconds: float
    compile_cache: CompileCache | None
    recompiles: int
    recompile_reasons: tuple[str, ...]
    mfu: Ratio | None
    mbu: Ratio | None
    bound: Bound | None
    bytes_done: int | None
    bytes_per_second: float | None
    run_eta_seconds: float | None = field(default=None, metadata=OMIT_DEFAULT)
    run_eta_by: EtaBy | None = field(default=None, metadata=OMIT_DEFAULT)
    step_seconds_by_kind: Mapping[str, StepSeconds] | None = field(default=None, metadata=OMIT_DEFAULT)


@dataclass(frozen=True, slots=True)
class Device(_Safe):
    """The devices a run uses.

    `count` is the number of jax devices, `chips` the number of chips they make up (on v2, v3 and 7x a
    device is half a chip); `chip_ids` name the monitor's rows (`tpu0`) that they belong to.
    """

    platform: str
    kind: str
    count: int
    chips: float
    chip_ids: tuple[str, ...]
    peak_flops_per_chip: float | None
    peak_source: str | None
    hbm_bytes_per_chip: int | None
    hbm_bandwidth_bytes_per_second_per_chip: float | None


@dataclass(frozen=True, slots=True)
class RunReport(_Safe):
    """One run, whole. Also the file that `generate --report` writes.

    `forecast` is what was expected of it before it began, stages that never came included; `warnings` are
    what its user was told while it ran. A whole number among `params` that not every reader of JSON could
    keep, such as a seed of 64 bits, is its digits. `content_params` are the names of those that say what is
    shown and change no time, None where the run does not say which (see `content`).
    `progress`, of its running stage (the last of those that run), is there where a server tells of a run; see
    `fold`.

    `work` are the stages that are to compute something, in their order, said as the run begins; of none that
    loads or saves, and empty where the run does not say.

    `name` is what its user calls it: the workflow's. Of a workflow `cached_nodes` were not executed, since
    what they would make was there already; `nodes_total` is how many it has with those, where that is known.

    `attachments` are the kinds of what the history keeps with it (see `Attachment`).
    """

    run_id: str
    pipeline: str
    model_id: str | None
    params: Params
    status: Status
    error: str | None
    started_at: str
    started_unix_seconds: float
    total_seconds: float | None
    output: str | None
    device: Device | None
    stages: tuple[StageReport, ...]
    forecast: Forecast | None = None
    warnings: tuple[str, ...] = ()
    content_params: tuple[str, ...] | None = field(default=None, metadata=OMIT_DEFAULT)
    progress: StageProgress | None = field(default=None, metadata=OMIT_DEFAULT)
    name: str | None = field(default=None, metadata=OMIT_DEFAULT)
    process: Process | None = field(default=None, metadata=OMIT_DEFAULT)
    nodes_total: int | None = field(default=None, metadata=OMIT_DEFAULT)
    cached_nodes: tuple[Node, ...] = field(default=(), metadata=OMIT_DEFAULT)
    work: tuple[StageWork, ...] = field(default=(), metadata=OMIT_DEFAULT)
    attachments: tuple[str, ...] = field(default=(), metadata=OMIT_DEFAULT)

    @property
    def content(self) -> frozenset[str]:
        """The names of the parameters that say what is shown: the run's own word, or the default."""
        return DEFAULT_CONTENT_PARAMS if self.content_params is None else frozenset(self.content_params)


@dataclass(frozen=True, slots=True)
class ProfileCapture(_Safe):
    """The capture of jax's profiler that was asked for last.

    `steps` were asked for, of which `steps_captured` have been handed to the devices so far; `run_id` is the
    run they are of, and `path` the folder of the files, which are whole once the status is `written`. Idle
    and all None: none was asked for.
    """

    status: CaptureStatus
    steps: int | None
    steps_captured: int
    run_id: str | None
    path: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began; `report` is the run as known so far (status `running`, no stages)."""

    report: RunReport
    type: Literal["run_started"] = field(default="run_started", init=False)


@dataclass(frozen=True, slots=True)
class StageStarted(_Safe):
    """A stage began; `stage` is its position in the run's `stages`.

    `progress` is how the stage stands after this event, where whoever passes it on has folded that (`fold`);
    so in the events of a stage below.
    """

    run_id: str
    stage: int
    report: StageReport
    progress: StageProgress | None = field(default=None, metadata=OMIT_DEFAULT)
    type: Literal["stage_started"] = field(default="stage_started", init=False)


@dataclass(frozen=True, slots=True)
class _InStage(_Safe):
    """What happened in a stage; `stage` is its position in the run's `stages`."""

    run_id: str
    pipeline: str
    stage: int
    stage_name: StageName


@dataclass(frozen=True, slots=True)
class StepFinished(_InStage):
    """The device finished step `step` (from 0). `eta_seconds` is what the stage has still to go.

    That is the steps to come times the median of the last ones, each kind apart. How many of each kind come
    is as planned; where a step cache decides as it goes, as it went so far. `mfu`, `mbu` and `bound` are of
    this step alone, None where a compile fell in it.
    """

    step: int
    record: StepRecord
    steps_total: int | None
    eta_seconds: float | None
    mfu: Ratio | None
    mbu: Ratio | None
    bound: Bound | None
    progress: StageProgress | None = field(default=None, metadata=OMIT_DEFAULT)
    type: Literal["step_finished"] = field(default="step_finished", init=False)


@dataclass(frozen=True, slots=True)
class BytesTransferred(_InStage):
    """A download has brought `bytes_done` of `bytes_total`.

    `bytes_per_second` is the rate of the last seconds, `eta_seconds` what is still to come at that rate.
    """

    bytes_done: int
    bytes_total: int | None
    bytes_per_second: float | None
    eta_seconds: float | None
    progress: StageProgress | None = field(default=None, metadata=OMIT_DEFAULT)
    type: Literal["bytes_transferred"] = field(default="bytes_transferred", init=False)


@dataclass(frozen=True, slots=True)
class CompileFinished(_InStage):
    """A stage compiled something.

    `stage_compile_seconds` is the stage's total so far: trace, lowering and backend together, overlaps
    counted once. `recompile` is true for the first compile in each step after the stage's first, so that
    these add up to the stage's `recompiles`.
    """

    record: CompileRecord
    stage_compile_seconds: float
    recompile: bool
    progress: StageProgress | None = field(default=None, metadata=OMIT_DEFAULT)
    type: Literal["compile_finished"] = field(default="compile_finished", init=False)


@dataclass(frozen=True, slots=True)
class StageFinished(_Safe):
    """A stage ended; `report` is final."""

    run_id: str
    pipeline: str
    stage: int
    report: StageReport
    type: Literal["stage_finished"] = field(default="stage_finished", init=False)


@dataclass(frozen=True, slots=True)
class RunChanged:
    """More is known of a run than its other events say; `report` is the run as known so far.

    A workflow's run learns its prompt and devices from its nodes, and of a run of another process nothing
    else is heard.
    """

    report: RunReport
    type: Literal["run_changed"] = field(default="run_changed", init=False)


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run ended; `report` is final."""

    report: RunReport
    type: Literal["run_finished"] = field(default="run_finished", init=False)


@dataclass(frozen=True, slots=True)
class RunWarned(_Safe):
    """Something that a run's user should know before it ends; also in its report's `warnings`."""

    run_id: str
    pipeline: str
    warning: str
    type: Literal["run_warned"] = field(default="run_warned", init=False)


@dataclass(frozen=True, slots=True)
class ModelFreed(_Safe):
    """A component of a model left the devices' memory; `freed_bytes` is what it held on all of them together.

    `reason`: `evicted` for another that needed the room (or because its files have changed), `freed` because
    somebody asked for it, `out_of_memory` so that a step which had failed could be tried again. `run_id` is
    the run that caused it, if one did.
    """

    run_id: str | None
    model: str
    component: str
    freed_bytes: int
    reason: Literal["evicted", "freed", "out_of_memory"]
    type: Literal["model_freed"] = field(default="model_freed", init=False)


@dataclass(frozen=True, slots=True)
class ProfileChanged:
    """A capture of jax's profiler was asked for, came on, or ended."""

    capture: ProfileCapture
    type: Literal["profile_changed"] = field(default="profile_changed", init=False)


@dataclass(frozen=True, slots=True)
class Attachment:
    """What the history is to keep with a run, one of each `kind`.

    A `thumbnail` is a small JPEG or WebP of its result, a `workflow` the graph as ComfyUI's page loads it,
    gzipped JSON. `make` gives the body, None for none; whoever keeps it calls it, in a thread of its own, and
    where nobody does nothing is made.
    """

    kind: Literal["thumbnail", "workflow"]
    media_type: str
    make: Callable[[], bytes | None]


@dataclass(frozen=True, slots=True)
class RunAttached:
    """Something is to be kept with a run. It does not leave this process."""

    run_id: str
    attachment: Attachment
    type: Literal["run_attached"] = field(default="run_attached", init=False)


WireEvent: TypeAlias = (
    RunStarted
    | RunChanged
    | StageStarted
    | StepFinished
    | BytesTransferred
    | CompileFinished
    | StageFinished
    | RunFinished
    | RunWarned
    | ModelFreed
    | ProfileChanged
)
"""What clients are told."""

Event: TypeAlias = WireEvent | RunAttached


_T = TypeVar("_T")

NOT_ON_THE_WIRE: Final = {"on_the_wire": False}
"""The metadata of a field that does not leave this process."""


@dataclass(frozen=True, slots=True)
class Message(Generic[_T]):
    """A message within another, such as a report in a list: `schema` is in it too."""

    body: _T


def to_wire(value: Any) -> dict[str, Any]:
    """The JSON object for an event, a report or another dataclass, with `schema` first.

    NaN and infinity become null.
    """
    return {"schema": WIRE_SCHEMA, **plain(value)}


def plain(value: Any) -> Any:
    """A dataclass, mapping, sequence or scalar as strict JSON has it. NaN and infinity become None."""
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is Message:
        return to_wire(value.body)
    if dataclasses.is_dataclass(value):
        return {
            name: plain(item)
            for name, omitted in _wire_fields(kind)
            if (item := getattr(value, name)) != omitted or omitted is _NEVER
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_PLAIN: Final = frozenset({str, int, bool, type(None)})
_NEVER: Final = object()


@functools.cache
def _wire_fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    """The names of the fields, each with the value at which it is left out."""
    return tuple(
        (f.name, f.default if "omit_default" in f.metadata else _NEVER)
        for f in dataclasses.fields(kind)
        if f.metadata.get("on_the_wire", True)
    )
