"""Plans every full-size model's default request, all stages, for TPUs that this machine does not have, and
what makes some of them faster: few steps, and steps that are skipped.

    python -m benchmarks.plans [--topology v6e-8 ...] [MODEL ...]

writes `results/plans.json`: of each stage whether it fits, what a chip must hold for it, and its seconds,
estimated, and of its compile on this machine. Nothing is run on a TPU.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crystools_pipelines.models import MODELS
from crystools_pipelines.planning.topologies import TOPOLOGIES

TOPOLOGIES_PLANNED = ("v6e-8",)
RESULTS = Path(__file__).parent / "results" / "plans.json"
FASTER = {
    "wan2.1-t2v": (
        "--preset lightx2v-4step",
        "--preset lightx2v-4step --mesh tp=8",
        "--step-cache mag:0.12,0.2,2",
    ),
    "wan2.2-i2v": ("--steps 40 --step-cache mag:0.06,0.2,2",),
}
"""The options, as they were published, with which a model is planned as well."""

KEPT = (
    "name",
    "component",
    "steps",
    "fits",
    "peak_hbm_bytes_per_chip",
    "hbm_bytes_per_chip",
    "roofline_seconds",
    "estimated_seconds",
    "estimated_mfu",
    "compile_seconds",
    "evicts",
)


def full_size(model: str) -> Any:
    """The model's default request: 720x1280, 81 frames, guided; an image of 1024x1024."""
    # Of four steps each transformer of Wan2.2 takes one at least: more are no other programs.
    return MODELS[model].request_class().of_any_content(num_inference_steps=4)


def row(plan: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a plan that was printed as JSON."""
    stages = []
    for stage in plan["stages"]:
        kinds = {each["kind"]: [each["count"], each["estimated_seconds"]] for each in stage["steps_by_kind"]}
        kept = {name: stage[name] for name in KEPT}
        stages.append(kept | ({"steps_and_seconds_by_kind": kinds} if len(kinds) > 1 else {}))
    return {"mesh": plan["mesh"], "fits": plan["fits"], "stages": stages}


def answer(command: str) -> dict[str, Any]:
    """What a command of `crystools-tpu` prints as JSON."""
    program = [sys.executable, "-m", "crystools_tpu", *command.split(), "--json"]
    done = subprocess.run(program, stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, 1):  # 1: nothing fits, which is an answer
        sys.exit(done.returncode)
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def main() -> None:
    """Plans, prints and writes; what was written of other models and topologies stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--topology", action="append", choices=TOPOLOGIES, metavar="NAME")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {
        "method": "estimates by the TPU compiler's own schedule; nothing was run on a TPU",
        "libtpu": version("libtpu"),
        "jax": version("jax"),
        "cpus": os.cpu_count(),
    }
    for topology in arguments.topology or TOPOLOGIES_PLANNED:
        for model in arguments.models or MODELS:
            for options in ("", *FASTER.get(model, ())):
                planned = f"{model} {options}".strip()
                kept = row(answer(f"plan {planned} --topology {topology}"))
                results.setdefault(topology, {})[planned] = kept
                print(topology, planned, json.dumps(kept), flush=True)
                RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
