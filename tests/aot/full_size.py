"""What is asked of a full-size model that libtpu's own compiler compiles, on a machine without a TPU.

Every layer is there: the stacks are scanned, so depth costs no compile time, and the memory is the true one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks.plans import full_size
from crystools_pipelines.models import MODELS
from crystools_pipelines.planning.aot import TpuCompiler
from crystools_pipelines.planning.plan import RunSpec
from crystools_tpu.telemetry import StageName
from crystools_tpu.telemetry.chips import CHIPS

WAN_STAGES = [("text_encode", None, 1), ("denoise", "transformer", 1), ("vae_decode", None, 2)]
STAGES = {  # each with its component and how many programs it has
    "wan2.1-t2v": WAN_STAGES,
    "wan2.2-i2v": [
        WAN_STAGES[0],
        ("vae_encode", None, 2),
        WAN_STAGES[1],
        ("denoise", "transformer_2", 1),
        WAN_STAGES[2],
    ],
    "cogvideox-t2v": WAN_STAGES,
    "flux.2": [*WAN_STAGES[:2], ("vae_decode", None, 1)],
}
LEAST_EFFORT = (
    9  # XLA's O0, so that it takes minutes; what a run's own effort comes to is in benchmarks/results
)
HBM_BYTES = {chip.name: chip.hbm_bytes for chip in CHIPS}

# Their convolutions take as long as all the rest.
VAE = (StageName.VAE_ENCODE, StageName.VAE_DECODE)


def request_for(model: str, topology: str) -> Any:
    """The default one of two models for a v6e. Else a small one: what a compiler refuses is of no size, and
    `benchmarks/plans.py` compiles every model at full size."""
    request = full_size(model)
    if topology.startswith("v6e") and model in ("wan2.1-t2v", "flux.2"):
        return request
    frames = {"num_frames": 17} if hasattr(request, "num_frames") else {}
    return dataclasses.replace(request, height=256, width=256, **frames)


def every_stage_compiles_and_fits(
    compiler: TpuCompiler, folder: Path, model: str, topology: str, without: tuple[StageName, ...]
) -> None:
    """Asserts it of every stage but those in `without`; `folder` is for the configurations."""
    configurations = MODELS[model].write_published(folder)
    spec = RunSpec(topology, model, request_for(model, topology), configurations)
    stages = [
        (stage, compiler.compile_stage(spec, index, effort=LEAST_EFFORT))
        for index, stage in enumerate(compiler.outline(spec).stages)
        if stage.name not in without
    ]
    assert [(stage.name, stage.component, len(compiled.programs)) for stage, compiled in stages] == [
        stage for stage in STAGES[model] if stage[0] not in without
    ]
    for stage, compiled in stages:
        for program in compiled.programs:
            room = HBM_BYTES[topology.split("-")[0]]
            if stage.name in (StageName.VAE_ENCODE, StageName.VAE_DECODE):
                room //= 3  # a third suffices where the devices share the pixels from end to end
            assert 0 < program.memory_bytes < room, stage.name
