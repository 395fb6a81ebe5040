"""Our default against the designs of the packs that it replaces, both by the TPU compiler's own schedule.

    python -m benchmarks.peer_designs [DESIGN ...]

compiles for v6e-8, on a machine without a TPU, a denoising step of each design in `peers/designs.py` and, by
`crystools-tpu plan`, our own, and writes `results/peer_designs.json`: seconds of a step by what they are
spent on, with and without the calibration, beside the figure that the design's author measured on v6e-8.

A design is compiled with one block of each stack, and with one more of each. What the second block adds is
taken for every further one: its neighbours are what they are in the whole model, whose compile takes hours.
Some 20 minutes on two cores. Nothing is run on a TPU: all but the published figures are estimates.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks.peers.designs import DESIGNS, Published, depths
from benchmarks.plans import answer
from crystools_pipelines.models import MODELS
from crystools_pipelines.planning.aot import LIBTPU_ENVIRONMENT
from crystools_pipelines.planning.compiler_process import ChildProcess
from crystools_pipelines.planning.estimate import OTHER_CYCLES_SHARE, Estimate, KernelCycles, estimate
from crystools_pipelines.planning.hlo import Module, parse
from crystools_pipelines.planning.kernel_cycles import SCHEDULE_FLAGS, kernel_cycles
from crystools_pipelines.planning.topologies import TOPOLOGIES

TOPOLOGY = "v6e-8"
RESULTS = Path(__file__).parent / "results" / "peer_designs.json"

Depths: TypeAlias = dict[str, int]


def main() -> None:
    """Compiles, prints and writes; what was written of other designs stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("designs", nargs="*", metavar="DESIGN", help=", ".join(DESIGNS))
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {
        "method": "estimates by the TPU compiler's own schedule; nothing was run on a TPU",
        "topology": TOPOLOGY,
        "other_cycles_share": OTHER_CYCLES_SHARE,
        "libtpu": version("libtpu"),
        "jax": version("jax"),
    }
    for name in arguments.designs or DESIGNS:
        results.setdefault("designs", {})[name] = row = compare(name)
        print(name, json.dumps(row, indent=2), flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def compare(name: str) -> dict[str, Any]:
    """The design's estimates beside its published figure and, where it has a target, ours."""
    design = DESIGNS[name]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = MODELS[design.model].write_published(Path(folder) / "checkpoint")
        configuration = json.loads((checkpoint / "transformer" / "config.json").read_text())
        modules, cycles = compiled(name, configuration)
    calibrated, plain = (
        whole_step(modules, cycles, depths(design, configuration), share)
        for share in (OTHER_CYCLES_SHARE, 1.0)
    )
    return {
        "shape": design.shape,
        "mesh": design.of.MESH,
        "published_step_seconds": design.step_seconds,
        "calibrates": design.calibrates,
        "theirs": described(calibrated, design.step_seconds),
        "theirs_uncalibrated": described(plain, design.step_seconds),
    } | (against_ours(design, calibrated.total_seconds) if design.target else {})


def described(step: Estimate, published: float) -> dict[str, Any]:
    """One step, the largest share of it first."""
    return {
        "step_seconds": round(step.total_seconds, 3),
        "of_published": round(step.total_seconds / published, 3),
        "seconds_by": largest_first(step.seconds, 1),
        "notes": sorted(step.notes),
    }


def largest_first(seconds: Mapping[str, float], steps: int) -> dict[str, float]:
    """Seconds of one of so many steps, in milliseconds' precision."""
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: round(value / steps, 3) for name, value in ordered}


def against_ours(design: Published, theirs_seconds: float) -> dict[str, Any]:
    """Our default of the same model and shape, by the planner's own way."""
    shape = [argument for name, size in design.shape.items() for argument in (f"--{name}", str(size))]
    plan = answer(f"plan {design.model} --topology {TOPOLOGY} {' '.join(shape)} --stages denoise")
    (stage,) = plan["stages"]
    seconds = stage["estimated_seconds"] / stage["steps"]
    return {
        "ours": {
            "mesh": plan["mesh"],
            "step_seconds": round(seconds, 3),
            "seconds_by": largest_first(stage["estimate"], stage["steps"]),
            "notes": stage["notes"],
        },
        "ours_of_theirs": round(seconds / theirs_seconds, 3),
        "target": design.target,
    }


def whole_step(
    modules: Mapping[str | None, Module], cycles: KernelCycles, blocks: Depths, share: float
) -> Estimate:
    """The step of the whole model: one block of each stack, and what one more adds so many times."""
    chip, devices = TOPOLOGIES[TOPOLOGY].chip, TOPOLOGIES[TOPOLOGY].chips
    parts = {name: estimate(module, chip, devices, cycles, share) for name, module in modules.items()}
    step, one_each = Estimate(), parts[None]
    step.add(one_each)
    for stack, count in blocks.items():
        step.add(parts[stack], count - 1)
        step.add(one_each, 1 - count)
    return step


def compiled(name: str, configuration: dict[str, Any]) -> tuple[dict[str | None, Module], KernelCycles]:
    """The programs with one block of each stack (None) and with one more (the stack's name), and kernels."""
    one_each = dict.fromkeys(DESIGNS[name].of.STACKS, 1)
    with ChildProcess(LIBTPU_ENVIRONMENT) as child:
        modules: dict[str | None, Module] = {
            stack: parse(child.call(_optimised_hlo, name, configuration | one_each | more))
            for stack, more in [(None, {}), *((stack, {stack: 2}) for stack in one_each)]
        }
    with tempfile.TemporaryDirectory() as folder:
        flags = {"LIBTPU_INIT_ARGS": SCHEDULE_FLAGS.format(folder=folder)}
        with ChildProcess(LIBTPU_ENVIRONMENT | flags) as child:
            cycles = child.call(_kernel_cycles, name, configuration | one_each, Path(folder))
    return modules, cycles


# What follows runs in the child.


@cache
def _devices() -> list[Any]:
    chosen = TOPOLOGIES[TOPOLOGY]
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=chosen.libtpu_name, **chosen.libtpu_options
    )
    return list(described.devices)


def _trace(name: str, configuration: dict[str, Any]) -> jax.stages.Traced:
    design = DESIGNS[name]
    axes = design.of.MESH
    mesh = Mesh(np.asarray(_devices()).reshape(tuple(axes.values())), tuple(axes))
    traced: jax.stages.Traced = design.of.trace(configuration, mesh, **design.shape)
    return traced


def _optimised_hlo(name: str, configuration: dict[str, Any]) -> str:
    return _trace(name, configuration).lower().compile().as_text() or ""


def _kernel_cycles(name: str, configuration: dict[str, Any], folder: Path) -> KernelCycles:
    return kernel_cycles(_trace(name, configuration), folder)


if __name__ == "__main__":
    main()
