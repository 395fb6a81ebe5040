"""Compiles every stage of every full-size model for TPUs that this machine does not have, as a run would.

    python -m benchmarks.tpu_compile [MODEL ...]

writes `results/tpu_compile.json`: for each stage the seconds of its compiles on this machine, and the bytes
of each program on each device, by the compiler's own account. Seconds are null where the machine had other
work. Nothing was run on a TPU.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from crystools_pipelines.models import MODELS
from crystools_pipelines.runtime.aot import CompiledStage, TpuCompiler
from crystools_pipelines.runtime.run_spec import RunSpec

TOPOLOGIES_COMPILED = ("v5p-8", "v6e-8")
RESULTS = Path(__file__).parent / "results" / "tpu_compile.json"


def full_size(model: str) -> Any:
    """The model's default request: 720x1280, 81 frames, guided; an image of 1024x1024."""
    image = {"image": np.zeros((720, 1280, 3), np.float32)} if model == "wan2.2-i2v" else {}
    # Two steps, one for each transformer of Wan2.2: more are no other programs.
    return MODELS[model].request_class()("a lighthouse in a storm", num_inference_steps=2, **image)


def main(models: Sequence[str]) -> None:
    """Compiles, prints and writes; what was written of other models stays."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {"libtpu": version("libtpu"), "jax": version("jax"), "cpus": os.cpu_count()}
    with TpuCompiler() as compiler, tempfile.TemporaryDirectory() as folder:
        for topology in TOPOLOGIES_COMPILED:
            for model in models or MODELS:
                configurations = MODELS[model].write_published(Path(folder) / model)
                stages = compiler.compile(RunSpec(topology, model, full_size(model), configurations))
                results.setdefault(topology, {})[model] = [_row(stage) for stage in stages]
                print(topology, model, json.dumps(results[topology][model]), flush=True)
                RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def _row(stage: CompiledStage) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "component": stage.component,
        "compile_seconds": round(stage.compile_seconds, 1),
        "hbm_bytes_per_device": [program.memory.total_bytes for program in stage.programs],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
