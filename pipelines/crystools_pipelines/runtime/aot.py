"""Compiles for TPUs that this machine does not have: what fits on a chip, known before one is rented.

libtpu compiles for a described topology. It takes its settings from the environment when it is loaded, so
that happens in a child process. Weights are shapes with shardings: only configurations are read.
"""

import os
import time
from collections.abc import Collection, Hashable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jax.experimental import topologies

from crystools_pipelines.models import MODELS
from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.component import compile_with
from crystools_pipelines.runtime.rehearsal import RehearsedStage, rehearse
from crystools_tpu.telemetry import StageName

# libtpu's names for one host of each accelerator type: chips by their place in the torus.
TOPOLOGIES = {
    "v5p-8": "v5p:2x2x1",
    "v6e-8": "v6e:2x4",
}

_LIBTPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # off Google Cloud, asking its metadata server takes minutes
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so nobody else's is taken
}


@dataclass(frozen=True)
class ProgramMemory:
    """What one program takes of each device's HBM while it runs, by the compiler's own account."""

    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    """Of the outputs, those that take the place of arguments."""
    temporary_bytes: int
    code_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it together; what other programs keep on the device comes on top."""
        written = self.output_bytes - self.alias_bytes
        return self.argument_bytes + written + self.temporary_bytes + self.code_bytes


@dataclass(frozen=True)
class CompiledStage:
    """A stage as it would run, compiled: its model FLOPs over all devices, and how long its compiles took."""

    name: StageName
    component: str | None
    steps: int
    flops: float
    programs: tuple[ProgramMemory, ...]
    compile_seconds: float


class TpuCompiler:
    """A child process that compiles, one stage after the other, until the context ends."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepare)

    def __enter__(self) -> "TpuCompiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def compile(
        self,
        topology: str,
        model: str,
        request: Any,
        configurations: Path,
        *,
        effort: float | None = None,
        without: Collection[StageName] = (),
    ) -> tuple[CompiledStage, ...]:
        """Compiles the stages of `request` to `model`, an id of MODELS, for a key of TOPOLOGIES.

        `configurations` is a checkpoint's folder; weights need not be in it. `effort` takes the place of the
        run's own, which is what its memory and speed depend on. Stages in `without` are left out. A program
        that was compiled before is not compiled again. Raises what the compiler raises where a program does
        not fit into a device's HBM.
        """
        arguments = (TOPOLOGIES[topology], model, request, configurations, effort, frozenset(without))
        return self._pool.submit(_compile, *arguments).result()


def _prepare() -> None:
    os.environ.update(_LIBTPU_ENVIRONMENT)


def _compile(
    topology_name: str,
    model: str,
    request: Any,
    configurations: Path,
    effort: float | None,
    without: frozenset[StageName],
) -> tuple[CompiledStage, ...]:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=topology_name)
    checkpoint, devices = Checkpoint(configurations), list(topology.devices)
    rehearsal = rehearse(MODELS[model].pipeline(), request, checkpoint, devices)
    stages = (stage for stage in rehearsal.stages if stage.name not in without)
    return tuple(_compile_stage(topology_name, stage, effort) for stage in stages)


def _compile_stage(topology_name: str, stage: RehearsedStage, effort: float | None) -> CompiledStage:
    started_at = time.perf_counter()
    programs = tuple(
        _compile_program(topology_name, program.traced.lower(), program.effort if effort is None else effort)
        for program in stage.programs
    )
    seconds = time.perf_counter() - started_at
    return CompiledStage(stage.name, stage.component, stage.steps, stage.flops, programs, seconds)


_compiled: dict[Hashable, ProgramMemory] = {}


def _compile_program(topology_name: str, lowered: jax.stages.Lowered, effort: float) -> ProgramMemory:
    key = (topology_name, sha256(lowered.as_text().encode()).digest(), effort)
    if key not in _compiled:
        _compiled[key] = _memory(compile_with(lowered, effort))
    return _compiled[key]


def _memory(compiled: jax.stages.Compiled) -> ProgramMemory:
    analysis: Any = compiled.memory_analysis()
    return ProgramMemory(
        argument_bytes=analysis.argument_size_in_bytes,
        output_bytes=analysis.output_size_in_bytes,
        alias_bytes=analysis.alias_size_in_bytes,
        temporary_bytes=analysis.temp_size_in_bytes,
        code_bytes=analysis.generated_code_size_in_bytes,
    )
