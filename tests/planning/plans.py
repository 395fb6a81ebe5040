"""Plans made up by hand, for tests that must not compile."""

from __future__ import annotations

from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.plan import Plan, StagePlan
from crystools_tpu.telemetry import Shape

GIB = 2**30


def made_up_stage(
    name: str, component: str | None = None, *, fits: bool = True, steps: int = 50, peak_gib: float = 10
) -> StagePlan:
    """A stage of 4.5 s a step, unless it does not fit."""
    return StagePlan(
        name=name,
        component=component,
        steps=steps,
        peak_hbm_bytes_per_chip=int(peak_gib * GIB),
        hbm_bytes_per_chip=31 * GIB,
        fits=fits,
        flops=1e15,
        moved_bytes=1e12,
        roofline_seconds=1.0,
        estimated_seconds=4.5 * steps if fits else None,
        estimated_mfu=0.25 if fits else None,
        compile_seconds=30.0,
        collective_bytes={},
        evicts=(),
        estimate={},
        notes=(),
    )


def made_up_plan(
    *stages: StagePlan,
    model: str = "wan2.1-t2v",
    topology: str = "v6e-8",
    mesh: MeshShape | None = None,
    shapes: tuple[Shape, ...] = (),
) -> Plan:
    """A plan for a v6e-8 with all chips in a row, unless said otherwise."""
    fits = all(stage.fits for stage in stages)
    return Plan(model, topology, mesh or MeshShape(1, 1, 8), fits, stages, shapes)
