"""The attention kernel's block sizes, ranked by the compiler's schedule of each."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from crystools_pipelines.errors import RequestError
from crystools_pipelines.kernels.flash_kernel import BlockSizes
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.aot import TpuCompiler
from crystools_pipelines.planning.attention_tuning import AttentionShape, candidates, moved_bytes
from crystools_pipelines.planning.plan import RunSpec
from crystools_pipelines.planning.topologies import TOPOLOGIES
from crystools_tpu.telemetry import StageName


@dataclass(frozen=True)
class TunedBlocks:
    """Block sizes, and the estimated seconds of one call with them; None where they do not compile."""

    sizes: BlockSizes
    estimated_seconds: float | None


@dataclass(frozen=True)
class AttentionTuning:
    """What was tried for the largest attention of a model's denoising on one device, the fastest first."""

    model: str
    topology: str
    mesh: MeshShape
    shape: AttentionShape
    blocks: tuple[TunedBlocks, ...]

    def to_json(self) -> dict[str, Any]:
        """The tuning as `plan --tune-attention --json` prints it."""
        return asdict(self)


def tune_attention(
    compiler: TpuCompiler, spec: RunSpec, tried: Callable[[int, int, TunedBlocks], None]
) -> AttentionTuning:
    """Tries all block sizes; `tried` is told of each, with its number and of how many.

    Raises what a run would raise before its first stage, and RequestError where the kernel is not used.
    """
    outline = compiler.outline(spec)
    index = next(i for i, stage in enumerate(outline.stages) if stage.name is StageName.DENOISE)
    shapes = compiler.attention_shapes(spec, index)
    if not shapes:
        raise RequestError("mesh", f"with {outline.mesh} the kernel is not used; give another")
    shape = max(shapes, key=lambda shape: shape.batch * shape.queries * shape.keys * shape.lanes)
    sizes = candidates(shape)
    blocks = []
    for number, each in enumerate(sizes, 1):
        blocks.append(TunedBlocks(each, _seconds(spec, shape, each, compiler)))
        tried(number, len(sizes), blocks[-1])
    blocks.sort(key=lambda each: inf if each.estimated_seconds is None else each.estimated_seconds)
    return AttentionTuning(spec.model, spec.topology, outline.mesh, shape, tuple(blocks))


def _seconds(spec: RunSpec, shape: AttentionShape, sizes: BlockSizes, compiler: TpuCompiler) -> float | None:
    """The kernel's cycles, and no less than moving its operands takes."""
    chip = TOPOLOGIES[spec.topology].chip
    cycles = compiler.attention_cycles(spec.topology, shape, sizes)
    if cycles is None or chip.clock_hz is None:
        return None
    bandwidth = chip.hbm_bandwidth_bytes_per_second / chip.devices_per_chip
    return max(cycles / chip.clock_hz, moved_bytes(shape, sizes) / bandwidth)
