"""A run on shapes: every stage as it would run, nothing executed, every program traced and kept.

The same code as in a real run takes the same path; only the `Job` differs. So what is known here of a program
is known of the one that runs. The devices may be those of a TPU that this machine does not have.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, Unpack, cast

import jax
import numpy as np
import torch
from jax.sharding import NamedSharding
from numpy.typing import NDArray

from crystools_pipelines.parallel.mesh import shape_of
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.runtime.job import Job
from crystools_pipelines.runtime.mag_ratios import Measured
from crystools_pipelines.runtime.pipeline import Pipeline
from crystools_pipelines.runtime.programs import Component, Programs, abstract
from crystools_pipelines.text.tokens import Tokenize, Tokens
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.loading import State
from crystools_pipelines.weights.part import Part
from crystools_pipelines.weights.shapes import Shapes, device_bytes
from crystools_tpu import telemetry
from crystools_tpu.telemetry import StageName
from crystools_tpu.telemetry.events import CACHED, FULL

Module = TypeVar("Module", bound=torch.nn.Module)


@dataclass(frozen=True)
class RehearsedProgram:
    """A program of a stage, traced, and how hard a run has XLA work on it (`programs.compile_with`)."""

    traced: jax.stages.Traced
    effort: int


@dataclass(frozen=True)
class Work:
    """What a step of this kind computes and moves through HBM, over all devices."""

    kind: str
    flops: float
    moved_bytes: float


@dataclass(frozen=True)
class RehearsedStep:
    """A step: its work, and the stage's programs that it runs, by their place among them.

    `cached` is its work where it is skipped, of a step of which the device decides that.
    """

    work: Work
    cached: Work | None
    programs: tuple[int, ...]

    @property
    def outcomes(self) -> Iterator[tuple[Work, bool]]:
        """What it may be: its work, and whether that is of a step that the device has skipped."""
        yield self.work, False
        if self.cached is not None:
            yield self.cached, True


@dataclass(frozen=True)
class RehearsedLoad:
    """A component that is loaded after so many stages, and what its weights take of one device."""

    component: str
    after_stages: int
    device_bytes: int
    weights: Shapes


@dataclass
class RehearsedStage:
    """A stage as telemetry would be told of it, and its programs in the order of their first use."""

    name: StageName
    component: str | None
    steps: list[RehearsedStep] = field(default_factory=list)
    programs: list[RehearsedProgram] = field(default_factory=list)
    fetched_device_bytes: list[int] = field(default_factory=list)
    """Bytes on one device of each output that stays on the devices until the stage ends."""
    unread_device_bytes: dict[int, int] = field(default_factory=dict)
    """By a program's place the bytes on one device that it is given and does not read: they are on the device
    while it runs, but in no account of the compiler's."""
    _ran: list[int] = field(default_factory=list)

    def ran(self, program: int) -> None:
        """Takes a program, by its place, that the step which comes has run."""
        self._ran.append(program)

    def step(self, work: Work, cached: Work | None) -> None:
        """Takes the step that has run."""
        self.steps.append(RehearsedStep(work, cached, tuple(self._ran)))
        self._ran.clear()

    @property
    def held_device_bytes(self) -> int:
        """Bytes that earlier steps leave on a device; the last output is among those of its own program."""
        return sum(self.fetched_device_bytes[:-1])

    @property
    def label(self) -> str:
        """`denoise transformer`, or just the stage's name."""
        return f"{self.name} {self.component}" if self.component else self.name.value


@dataclass(frozen=True)
class Rehearsal:
    """What happens in a run, in the order in which it happens, and the mesh that it happens on."""

    mesh: MeshShape
    loads: list[RehearsedLoad] = field(default_factory=list)
    stages: list[RehearsedStage] = field(default_factory=list)

    def outline(self) -> "Rehearsal":
        """The rehearsal without weights and programs, which cannot go to another process."""
        return Rehearsal(
            self.mesh,
            [replace(load, weights={}) for load in self.loads],
            [replace(stage, programs=[]) for stage in self.stages],
        )


def rehearse(
    pipeline: Pipeline[Any, Any],
    request: Any,
    checkpoint: Checkpoint,
    devices: Sequence[jax.Device],
    dtype: str = "bfloat16",
    shape: MeshShape | None = None,
) -> Rehearsal:
    """What happens in a run of `request` on these devices; of the checkpoint only configurations are read.

    `shape` is that of the mesh, if it is not to be the default. Raises what a run would raise before its
    first stage.
    """
    pipeline.check(checkpoint)
    prepared = pipeline.prepare(request, checkpoint)
    mesh = pipeline.mesh(devices, checkpoint, request.branches, shape)
    rehearsal = Rehearsal(shape_of(mesh))
    run = _Run(rehearsal.stages)
    pipeline.run(_Job(checkpoint, mesh, dtype, run, rehearsal=rehearsal), request, prepared)
    return rehearsal


class _Run(telemetry.SilentRun):
    """The `telemetry.RunRecorder` of a rehearsal: keeps what its stages are to cost."""

    def __init__(self, stages: list[RehearsedStage]) -> None:
        super().__init__("rehearsal")
        self._rehearsed = stages

    @contextmanager
    def stage(
        self, name: StageName | str, **facts: Unpack[telemetry.StageFacts]
    ) -> Iterator[telemetry.SilentStage]:
        """A stage. Raises ValueError where its steps or their cost are not said: a plan is made of them."""
        flops, moved_bytes = facts.get("flops_per_step"), facts.get("bytes_per_step")
        if facts.get("steps") is None or flops is None or moved_bytes is None:
            raise ValueError(f"stage {name!r} lacks steps, flops_per_step or bytes_per_step")
        with super().stage(name, **facts):
            stage = RehearsedStage(StageName(name), facts.get("component"))
            self._rehearsed.append(stage)
            yield _Stage(stage, flops, moved_bytes)


class _Stage(telemetry.SilentStage):
    """The `telemetry.StageRecorder` of a rehearsal: keeps what each step is to cost, and what it runs."""

    def __init__(self, stage: RehearsedStage, flops_per_step: float, bytes_per_step: float) -> None:
        super().__init__()
        self._stage = stage
        self._flops_per_step = flops_per_step
        self._bytes_per_step = bytes_per_step

    def step(
        self,
        done: Any,
        *,
        kind: str = FULL,
        flops: float | None = None,
        moved_bytes: float | None = None,
        cached: telemetry.CachedStep | None = None,
    ) -> None:
        work = Work(
            kind,
            self._flops_per_step if flops is None else flops,
            self._bytes_per_step if moved_bytes is None else moved_bytes,
        )
        skipped = None
        if cached is not None:
            if cached.flops is None or cached.moved_bytes is None:
                raise ValueError(
                    "a step that may be skipped lacks what it costs then: a plan is made of that"
                )
            skipped = Work(CACHED, cached.flops, cached.moved_bytes)
        self._stage.step(work, skipped)


@dataclass(frozen=True)
class _Job(Job):
    """Stands in for a run's job: arrays are `jax.ShapeDtypeStruct`s with shardings."""

    rehearsal: Rehearsal = field(kw_only=True)

    def load(self, part: Part[Module]) -> Component[Module]:
        module, shapes = self._built(part)
        after, size_bytes = len(self.rehearsal.stages), sum(map(device_bytes, shapes.values()))
        self.rehearsal.loads.append(RehearsedLoad(part.component, after, size_bytes, shapes))
        return Component(module, Programs(shapes, self._keep), cast(State, shapes))

    def put(self, tree: Any, sharding: NamedSharding) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    def zeros(self, tree: Any) -> Any:
        return tree

    def keep_ratios(self, measured: Measured, ratios: Mapping[str, jax.Array]) -> None:
        """Measured nothing."""

    def tokens(self, tokenize: Tokenize, prompts: Sequence[str], length: int) -> Tokens:
        nothing = np.zeros((len(prompts), length), np.int32)
        return nothing, nothing

    def fetch(self, array: jax.Array) -> jax.Array:
        self.rehearsal.stages[-1].fetched_device_bytes.append(device_bytes(array))
        return array

    def to_host(self, chunks: Sequence[jax.Array], axis: int = 0) -> NDArray[Any]:
        return np.concatenate([np.broadcast_to(np.zeros((), c.dtype), c.shape) for c in chunks], axis=axis)

    def _keep(self, traced: jax.stages.Traced, effort: int) -> Callable[..., Any]:
        """What answers with the shapes of the outputs; the program goes to the stage that runs."""
        stage = self.rehearsal.stages[-1]
        place, outputs = len(stage.programs), abstract(traced.out_info)
        stage.programs.append(RehearsedProgram(traced, effort))

        def run(*args: Any) -> Any:
            if place not in stage.unread_device_bytes:
                stage.unread_device_bytes[place] = _unread_device_bytes(traced, args)
            stage.ran(place)
            return outputs

        return run


def _unread_device_bytes(traced: jax.stages.Traced, args: Any) -> int:
    """Bytes on one device of those `args`, as the program has them, that it does not read."""
    jaxpr = cast(Any, traced.jaxpr).jaxpr
    read = {id(each) for equation in jaxpr.eqns for each in equation.invars} | set(map(id, jaxpr.outvars))
    leaves = zip(jaxpr.invars, jax.tree.leaves(args), strict=True)
    unread = (leaf for variable, leaf in leaves if id(variable) not in read)
    # What has no sharding is the host's, a number.
    return sum(
        device_bytes(leaf) for leaf in unread if isinstance(getattr(leaf, "sharding", None), NamedSharding)
    )
