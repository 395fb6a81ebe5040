"""Compiles for TPUs that this machine does not have: what fits on a chip, known before one is rented.

libtpu compiles for a described topology. It takes its settings from the environment when it is loaded, so
that happens in a child process. Weights are shapes with shardings: only configurations are read.
"""

import pickle
import tempfile
import time
from collections.abc import Hashable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from crystools_pipelines.errors import CompileError
from crystools_pipelines.kernels.flash_kernel import BlockSizes
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh import shape_of
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.attention_tuning import AttentionShape, attention_cycles, attention_shapes
from crystools_pipelines.planning.compiler_process import ChildProcess
from crystools_pipelines.planning.kernel_cycles import SCHEDULE_FLAGS, Kernel, kernel_cycles
from crystools_pipelines.planning.plan import RunSpec
from crystools_pipelines.planning.rehearsal import Rehearsal, RehearsedProgram, RehearsedStage, rehearse
from crystools_pipelines.planning.topologies import TOPOLOGIES
from crystools_pipelines.runtime.out_of_memory import Shortage, shortage
from crystools_pipelines.runtime.programs import compile_with
from crystools_pipelines.weights.checkpoint import Checkpoint

LIBTPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # off Google Cloud, asking its metadata server takes minutes
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so nobody else's is taken
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclass(frozen=True)
class CompiledProgram:
    """What the compiler made of a program, and its optimised HLO.

    `memory_bytes` is all that it takes of each device's HBM while it runs; what other programs keep on the
    device comes on top.
    """

    memory_bytes: int
    hlo: str


@dataclass(frozen=True)
class CompiledStage:
    """A stage's programs in the order of the rehearsal, and how long their compiles took.

    A program that does not fit into a device's HBM ends them: `shortage` is what the compiler says of it.
    """

    programs: tuple[CompiledProgram, ...]
    compile_seconds: float
    shortage: Shortage | None = None


class TpuCompiler(ExitStack):
    """Child processes that compile, one for programs and one for kernels, until the context ends.

    What libtpu and torch leave in the folder for temporary files goes with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._environment = LIBTPU_ENVIRONMENT | {"TMPDIR": self._folder()}
        self._child = self.enter_context(ChildProcess(self._environment))

    def meshes(self, spec: RunSpec) -> tuple[MeshShape, list[MeshShape]]:
        """The default mesh of such a run, and every one that it can have. Raises as `outline` does."""
        return self._child.call(_meshes, spec)

    def outline(self, spec: RunSpec) -> Rehearsal:
        """The run's rehearsal without weights and programs; nothing is compiled.

        Raises what a run would raise before its first stage.
        """
        return self._child.call(_outline, spec)

    def compile_stage(self, spec: RunSpec, index: int, *, effort: int | None = None) -> CompiledStage:
        """Compiles the stage with this place in the outline, but for programs that were compiled before.

        `effort` takes the place of the run's own, which is what its memory and speed depend on. Raises
        CompileError where the compiler fails.
        """
        return self._child.call(_compile_stage, spec, index, effort)

    def kernel_cycles(self, spec: RunSpec, index: int) -> dict[Kernel, int]:
        """TensorCore cycles of the Pallas kernels of that stage, as `kernel_cycles.kernel_cycles` has them.

        Raises CompileError where the compiler fails.
        """
        child, written = self._scheduling
        return child.call(_kernel_cycles, spec, index, written)

    def attention_shapes(self, spec: RunSpec, index: int) -> set[AttentionShape]:
        """What the attention kernel is called with in the stage with this place in the outline."""
        return self._child.call(_attention_shapes, spec, index)

    def attention_cycles(self, topology: str, shape: AttentionShape, sizes: BlockSizes) -> int | None:
        """TensorCore cycles of one call, as `attention_tuning.attention_cycles` has them."""
        child, written = self._scheduling
        return child.call(_attention_cycles, topology, shape, sizes, written)

    @cached_property
    def _scheduling(self) -> tuple[ChildProcess, Path]:
        """The process that compiles kernels, and the folder to which libtpu writes their schedules."""
        folder = self._folder()
        flags = {"LIBTPU_INIT_ARGS": SCHEDULE_FLAGS.format(folder=folder)}
        return self.enter_context(ChildProcess(self._environment | flags)), Path(folder)

    def _folder(self) -> str:
        return self.enter_context(tempfile.TemporaryDirectory(prefix="crystools-tpu-"))


# What follows runs in the child.

_rehearsed: tuple[bytes, Rehearsal] | None = None
_compiled: dict[Hashable, CompiledProgram] = {}


def _meshes(spec: RunSpec) -> tuple[MeshShape, list[MeshShape]]:
    pipeline, checkpoint = MODELS[spec.model].pipeline(), _checkpoint(spec)
    pipeline.check(checkpoint)
    pipeline.prepare(spec.request, checkpoint)
    devices, branches = _devices(spec.topology), spec.request.branches
    default = shape_of(pipeline.mesh(devices, checkpoint, branches))
    return default, pipeline.legal_meshes(checkpoint, branches, len(devices))


def _outline(spec: RunSpec) -> Rehearsal:
    return _rehearse(spec).outline()


def _checkpoint(spec: RunSpec) -> Checkpoint:
    checkpoint = Checkpoint(spec.configurations)
    if spec.checkpoint is not None:
        checkpoint.location = spec.checkpoint
    return checkpoint


def _devices(topology: str) -> list[Any]:
    chosen = TOPOLOGIES[topology]
    description = topologies.get_topology_desc(
        platform="tpu", topology_name=chosen.libtpu_name, **chosen.libtpu_options
    )
    return list(description.devices)


def _rehearse(spec: RunSpec) -> Rehearsal:
    """The rehearsal of this run, or the one before where it is the same."""
    global _rehearsed
    key = sha256(pickle.dumps(spec)).digest()
    if _rehearsed is None or _rehearsed[0] != key:
        pipeline, checkpoint = MODELS[spec.model].pipeline(), _checkpoint(spec)
        devices = _devices(spec.topology)
        _rehearsed = key, rehearse(pipeline, spec.request, checkpoint, devices, shape=spec.mesh)
    return _rehearsed[1]


def _compile_stage(spec: RunSpec, index: int, effort: int | None) -> CompiledStage:
    stage = _rehearse(spec).stages[index]
    started_at = time.perf_counter()
    programs: list[CompiledProgram] = []
    lacking: Shortage | None = None
    for program in stage.programs:
        try:
            programs.append(_compile_program(spec.topology, program, effort))
        except jax.errors.JaxRuntimeError as error:
            lacking = shortage(error)
            if lacking is None:
                raise _failed(stage, error) from error
            break
    seconds = time.perf_counter() - started_at
    return CompiledStage(tuple(programs), seconds, lacking)


def _compile_program(topology: str, program: RehearsedProgram, effort: int | None) -> CompiledProgram:
    lowered = program.traced.lower()
    chosen = program.effort if effort is None else effort
    key = (topology, sha256(lowered.as_text().encode()).digest(), chosen)
    if key not in _compiled:
        compiled = compile_with(lowered, chosen, "tpu")
        _compiled[key] = CompiledProgram(_memory_bytes(compiled), compiled.as_text() or "")
    return _compiled[key]


def _kernel_cycles(spec: RunSpec, index: int, written: Path) -> dict[Kernel, int]:
    stage = _rehearse(spec).stages[index]
    try:
        cycles = [kernel_cycles(program.traced, written) for program in stage.programs]
    except jax.errors.JaxRuntimeError as error:
        raise _failed(stage, error) from error
    return {kernel: count for of_program in cycles for kernel, count in of_program.items()}


def _failed(stage: RehearsedStage, error: jax.errors.JaxRuntimeError) -> CompileError:
    return CompileError(stage.name, str(error).partition("\n")[0])


def _attention_shapes(spec: RunSpec, index: int) -> set[AttentionShape]:
    stage = _rehearse(spec).stages[index]
    config = Checkpoint(spec.configurations).config(stage.component or "")
    return attention_shapes((program.traced for program in stage.programs), config["attention_head_dim"])


def _attention_cycles(topology: str, shape: AttentionShape, sizes: BlockSizes, written: Path) -> int | None:
    return attention_cycles(shape, sizes, _devices(topology)[0], written)


def _memory_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that the program takes of a device's HBM while it runs, by the compiler's own account."""
    memory: Any = compiled.memory_analysis()
    # Some outputs take the place of arguments.
    written = memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed = memory.argument_size_in_bytes + written + memory.temp_size_in_bytes
    return int(needed + memory.generated_code_size_in_bytes)
