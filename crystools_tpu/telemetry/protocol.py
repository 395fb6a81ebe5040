"""What a pipeline may call on a run and on a stage, whoever records them.

`telemetry.run` records and publishes, `telemetry.silent_run` does neither, and a rehearsal has its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

from crystools_tpu.telemetry.events import FULL, Attachment, Forecast, Params, RunReport, StageName, StageWork


class RunFacts(TypedDict, total=False):
    """What a pipeline may say of a run as it begins; see `telemetry.run`."""

    model_id: str | None
    params: Params | None
    content_params: Collection[str] | None
    devices: Sequence[Any]
    peak_flops_per_chip: float | None
    forecast: Forecast | None
    work: Sequence[StageWork]


class StageFacts(TypedDict, total=False):
    """What a pipeline may say of a stage as it begins; what it leaves out is not known.

    `component` says which part of the model (a `load` has one each); `steps` how many are to come, or how
    many of each kind, for the ETA; `flops_per_step` the model FLOPs of a step over all devices, and
    `flops_method` where they come from; `bytes_per_step` the bytes that must move through HBM in a step, over
    all devices; `bytes_total` those that a download is to bring.
    """

    component: str | None
    steps: int | Mapping[str, int] | None
    flops_per_step: float | None
    flops_method: str | None
    bytes_per_step: float | None
    bytes_total: int | None


class CachedStep(NamedTuple):
    """What a step was if it was skipped, for which the device alone decides: its kind is then `cached`.

    `skipped` is an array of booleans that the step itself computed: one for each of its parts, all of which
    are skipped in a step that is. `flops` and `moved_bytes` are what was computed and moved in such a step.
    Where only some are the step is of its own kind; `if_some` are then its FLOPs and moved bytes, if others.
    """

    skipped: Any
    flops: float
    moved_bytes: float
    if_some: tuple[float, float] | None = None


class StageRecorder(Protocol):
    """A stage of a run, between `with run.stage(...)` and its end."""

    def step(
        self,
        done: Any,
        *,
        kind: str = FULL,
        flops: float | None = None,
        moved_bytes: float | None = None,
        cached: CachedStep | None = None,
    ) -> None:
        """Reports a step that was just dispatched; `done` tells when the device has finished it.

        `done` is a small array that the step itself computed (`isfinite(latents).all()`: a NaN is then
        reported at its step), or a `torch.cuda.Event`, or None for work that is already finished. `kind` is a
        short word for steps that take alike, one of a few that the pipeline knows. `flops` and `moved_bytes`
        replace the stage's `flops_per_step` and `bytes_per_step` for this one. `cached` is for a step of
        which the device decides whether it is skipped.

        Returns at once unless the step before it is still running. Raises the device's error of the step
        before, and TypeError for a `done` that cannot be waited for.
        """

    def transferred(self, bytes_done: int) -> None:
        """Reports how many bytes a download has brought so far."""


class RunRecorder(Protocol):
    """A run of a pipeline; not for use from several threads at once."""

    output: str | None
    """Where the result is, once it is there."""

    @property
    def run_id(self) -> str:
        """What tells this run from every other."""

    @property
    def devices(self) -> tuple[Any, ...]:
        """The jax devices that the run uses."""

    @property
    def report(self) -> RunReport:
        """The run as known so far; final once it has ended."""

    def stage(
        self, name: StageName | str, **facts: Unpack[StageFacts]
    ) -> AbstractContextManager[StageRecorder]:
        """A stage; it ends when the device has finished its steps.

        Raises ValueError for a name that is no stage, TelemetryError where another stage is still open,
        and the device's own error where a step failed on the device and nothing else has raised it.
        """

    def warn(self, warning: str) -> None:
        """Says what the user should know before the run ends, the same once."""

    def attach(self, attachment: Attachment) -> None:
        """Has it kept with the run in the history, where there is one. Costs the run nothing."""
