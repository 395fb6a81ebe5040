"""A run on shapes: every stage as it would run, nothing executed, every program traced and kept.

The same code as in a real run takes the same path; only the `Job` differs. So what is known here of a program
is known of the one that runs. The devices may be those of a TPU that this machine does not have.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar, Unpack, cast

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel.mesh import replicated
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.parallel.sharding import Rules
from crystools_pipelines.runtime.component import Component, Program, trace
from crystools_pipelines.runtime.job import Job, kept_float32
from crystools_pipelines.runtime.pipeline import Pipeline
from crystools_pipelines.text.tokens import Tokenize, Tokens
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.loading import State, specs_at_rest
from crystools_pipelines.weights.part import Part, built
from crystools_tpu import telemetry
from crystools_tpu.telemetry import StageName
from crystools_tpu.telemetry.events import FULL

Module = TypeVar("Module", bound=torch.nn.Module)


@dataclass
class RehearsedProgram:
    """A program of a stage, traced, and how hard a run has XLA work on it (`component.compile_with`)."""

    traced: jax.stages.Traced
    effort: int
    runs: int = 0
    """How many times the stage runs it."""


@dataclass(frozen=True)
class RehearsedLoad:
    """A component that is loaded, and its weights; so many stages came before it."""

    component: str
    weights: dict[str, jax.ShapeDtypeStruct]
    after_stages: int = 0


@dataclass
class RehearsedStage:
    """A stage as telemetry would be told of it, and its programs in the order of their first use."""

    name: StageName
    component: str | None
    steps: int
    flops: float = 0.0
    """Model FLOPs of all steps, over all devices."""
    moved_bytes: float = 0.0
    """Bytes that must move through HBM in all steps, over all devices."""
    programs: list[RehearsedProgram] = field(default_factory=list)
    fetched_device_bytes: list[int] = field(default_factory=list)
    """Of each output that stays on the devices until the stage ends, its bytes on one device."""


@dataclass(frozen=True)
class Rehearsal:
    """What happens in a run, in the order in which it happens, and the mesh that it happens on."""

    mesh: Mesh
    loads: list[RehearsedLoad] = field(default_factory=list)
    stages: list[RehearsedStage] = field(default_factory=list)


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
    rehearsal = Rehearsal(mesh)
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
        steps, flops = facts.get("steps"), facts.get("flops_per_step")
        moved_bytes = facts.get("bytes_per_step")
        if steps is None or flops is None or moved_bytes is None:
            raise ValueError(f"stage {name!r} lacks steps, flops_per_step or bytes_per_step")
        count = sum(steps.values()) if isinstance(steps, Mapping) else steps
        with super().stage(name, **facts):
            stage = RehearsedStage(StageName(name), facts.get("component"), count)
            self._rehearsed.append(stage)
            yield _Stage(stage, flops, moved_bytes)


class _Stage(telemetry.SilentStage):
    """The `telemetry.StageRecorder` of a rehearsal: sums up what the steps are to cost."""

    def __init__(self, stage: RehearsedStage, flops_per_step: float, bytes_per_step: float) -> None:
        super().__init__()
        self._stage = stage
        self._flops_per_step = flops_per_step
        self._bytes_per_step = bytes_per_step

    def step(
        self, done: Any, *, kind: str = FULL, flops: float | None = None, moved_bytes: float | None = None
    ) -> None:
        self._stage.flops += self._flops_per_step if flops is None else flops
        self._stage.moved_bytes += self._bytes_per_step if moved_bytes is None else moved_bytes


@dataclass(frozen=True)
class _Job(Job):
    """Stands in for a run's job: arrays are `jax.ShapeDtypeStruct`s with shardings."""

    rehearsal: Rehearsal = field(kw_only=True)

    def load(self, part: Part[Module]) -> Component[Module]:
        module = built(part, self.checkpoint.folder(part.component))
        weights = abstract_state(module, self.mesh, part.rules, part.dtype or self.dtype)
        self.rehearsal.loads.append(RehearsedLoad(part.component, weights, len(self.rehearsal.stages)))
        return _Component(module, cast(State, weights), _at_once, stages=self.rehearsal.stages)

    def put(self, tree: Any, sharding: NamedSharding) -> Any:
        return _abstract(tree, sharding)

    def tokens(self, tokenize: Tokenize, prompts: Sequence[str], length: int) -> Tokens:
        nothing = np.zeros((len(prompts), length), np.int32)
        return nothing, nothing

    def fetch(self, array: jax.Array) -> jax.Array:
        self.rehearsal.stages[-1].fetched_device_bytes.append(device_bytes(array))
        return array

    def to_host(self, chunks: Sequence[jax.Array], axis: int = 0) -> NDArray[Any]:
        return np.concatenate([np.broadcast_to(np.zeros((), c.dtype), c.shape) for c in chunks], axis=axis)


def _at_once(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


@dataclass(frozen=True, eq=False)
class _Component(Component[Module]):
    """Stands in for a component: its weights are shapes, its programs go to the stage that runs."""

    stages: list[RehearsedStage] = field(kw_only=True)

    def compile(
        self,
        function: Callable[..., Any],
        *args: Any,
        out_shardings: Any,
        donate: tuple[int, ...] = (),
        effort: int = 0,
    ) -> Program:
        rehearsed = RehearsedProgram(trace(function, self.weights, args, out_shardings, donate), effort)
        self.stages[-1].programs.append(rehearsed)
        out_info = rehearsed.traced.out_info
        outputs = jax.tree.map(_abstract_with, out_shardings, out_info, is_leaf=_is_sharding)

        def run(*_: Any) -> Any:
            rehearsed.runs += 1
            return outputs

        return Program(outputs, cast(jax.stages.Compiled, run), self.weights, _at_once)


def _is_sharding(value: Any) -> bool:
    return isinstance(value, NamedSharding)


def _abstract_with(sharding: NamedSharding, tree: Any) -> Any:
    return _abstract(tree, sharding)


def _abstract(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def device_bytes(array: jax.Array | jax.ShapeDtypeStruct) -> int:
    """What an array with a sharding takes of one device."""
    shape = cast(NamedSharding, array.sharding).shard_shape(array.shape)
    return prod(shape) * int(array.dtype.itemsize)


def abstract_state(
    module: torch.nn.Module, mesh: Mesh, rules: Rules, dtype: str
) -> dict[str, jax.ShapeDtypeStruct]:
    """What `Job.load` would load for `module`, as shapes: the same names, dtypes and shardings."""
    float32 = kept_float32(module)
    parameters = dict(module.named_parameters())
    depths = _stack_depths(module)
    state = {}
    for name, spec in specs_at_rest(module, mesh, rules).items():
        shape = tuple(parameters[name].shape)
        if name in depths:
            shape, spec = (depths[name], *shape), PartitionSpec(None, *spec)
        kept = not set(name.split(".")).isdisjoint(float32)
        state[name] = jax.ShapeDtypeStruct(
            shape, jnp.dtype("float32" if kept else dtype), sharding=NamedSharding(mesh, spec)
        )
    buffers = {
        name: jax.ShapeDtypeStruct(tuple(buffer.shape), buffer.numpy().dtype, sharding=replicated(mesh))
        for name, buffer in module.named_buffers()
    }
    return state | buffers


def _stack_depths(module: torch.nn.Module) -> dict[str, int]:
    """For each parameter that stands for one in every layer of a stack, how many layers there are."""
    return {
        f"{prefix}.layer.{name}": layers.depth
        for prefix, layers in module.named_modules()
        if isinstance(layers, ScannedLayers)
        for name, _ in layers.layer.named_parameters()
        if name not in layers.shared
    }
