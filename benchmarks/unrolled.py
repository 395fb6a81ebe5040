"""The compile of Wan2.1's denoising step, whose blocks are a loop, against the same step without the loop.

    python -m benchmarks.unrolled

compiles both for v6e-8 at full size with few blocks and the loop with all 40, in turn on the same machine,
and writes `results/unrolled.json`. Without the loop each further block adds what the last ones added, which
is taken for the blocks that are not compiled: all 40 would take hours. Nothing is run on a TPU.
"""

import functools
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from benchmarks.plans import full_size
from crystools_pipelines.models import MODELS
from crystools_pipelines.planning import aot
from crystools_pipelines.planning.compiler_process import ChildProcess
from crystools_pipelines.planning.plan import RunSpec
from crystools_tpu.telemetry import StageName

MODEL, TOPOLOGY = "wan2.1-t2v", "v6e-8"
WITHOUT_LOOP = (1, 4, 12)
RESULTS = Path(__file__).parent / "results" / "unrolled.json"


def main() -> None:
    """Compiles, prints and writes."""
    with tempfile.TemporaryDirectory() as folder:
        configurations = MODELS[MODEL].write_published(Path(folder))
        blocks = _configuration(configurations)["num_layers"]
        unrolled = {}
        for count in WITHOUT_LOOP:
            unrolled[count] = _compile_seconds(configurations, count, unroll=True)
            print(f"{count} blocks without the loop: {unrolled[count]:.1f} s", flush=True)
        looped = _compile_seconds(configurations, blocks, unroll=False)
    *_, few, most = WITHOUT_LOOP
    extrapolated = unrolled[most] + (unrolled[most] - unrolled[few]) / (most - few) * (blocks - most)
    results = {
        "model": MODEL,
        "topology": TOPOLOGY,
        "libtpu": version("libtpu"),
        "jax": version("jax"),
        "cpus": os.cpu_count(),
        "without_loop_compile_seconds": {str(count): round(each, 1) for count, each in unrolled.items()},
        f"without_loop_{blocks}_blocks_extrapolated_seconds": round(extrapolated, 1),
        f"loop_{blocks}_blocks_compile_seconds": round(looped, 1),
        "ratio": round(looped / extrapolated, 3),
    }
    print(json.dumps(results, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def _compile_seconds(configurations: Path, blocks: int, *, unroll: bool) -> float:
    path = configurations / "transformer" / "config.json"
    path.write_text(json.dumps(_configuration(configurations) | {"num_layers": blocks}))
    with ChildProcess(aot.LIBTPU_ENVIRONMENT) as child:
        return child.call(_compile, RunSpec(TOPOLOGY, MODEL, full_size(MODEL), configurations), unroll)


def _configuration(configurations: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((configurations / "transformer" / "config.json").read_text())
    return read


def _compile(spec: RunSpec, unroll: bool) -> float:
    """In the child: seconds of the denoising step's compile."""
    scan = functools.partial(jax.lax.scan, unroll=unroll)
    with mock.patch.object(jax.lax, "scan", scan):
        stages = aot._rehearse(spec).stages
        index = next(index for index, stage in enumerate(stages) if stage.name is StageName.DENOISE)
        return aot._compile_stage(spec, index, None).compile_seconds


if __name__ == "__main__":
    main()
