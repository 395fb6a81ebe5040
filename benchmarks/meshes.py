"""Ranks every mesh for every full-size model's default request, and for some without guidance, and keeps the
best ones as defaults.

    python -m benchmarks.meshes [--topology v6e-8 ...] [MODEL ...]

rewrites the entries of these in `crystools_pipelines/parallel/defaults.json`. Each compile takes a minute
or two. What was planned before is not compiled again, so that it goes on where it was interrupted. Nothing is
run on a TPU: the seconds are estimates.
"""

import argparse
import json
from typing import Any

from benchmarks.defaults import how_found, keep
from benchmarks.plans import answer, full_size
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.topologies import TOPOLOGIES

TOPOLOGIES_COMPARED = ("v5e-8", "v5p-8", "v6e-8")
UNGUIDED = ("wan2.1-t2v",)
"""The models whose meshes are compared for one guidance branch as well, as few steps have it."""

KEY = ("model", "chip", "devices", "branches")


def main() -> None:
    """Compares, prints, and writes after each comparison; the other entries stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--topology", action="append", choices=TOPOLOGIES, metavar="NAME")
    arguments = parser.parse_args()
    for topology in arguments.topology or TOPOLOGIES_COMPARED:
        for model in arguments.models or MODELS:
            for branches in (full_size(model).branches, *([1] if model in UNGUIDED else [])):
                key = key_of(model, topology, branches)
                found = compare(model, topology, branches)
                print(json.dumps(key | found), flush=True)
                keep("meshes", key, found)


def key_of(model: str, topology: str, branches: int) -> dict[str, Any]:
    """By what the entry is found."""
    chip = TOPOLOGIES[topology].chip
    devices = TOPOLOGIES[topology].chips * chip.devices_per_chip
    return dict(zip(KEY, (model, chip.name, devices, branches), strict=True))


def compare(model: str, topology: str, branches: int) -> dict[str, Any]:
    """The best mesh and how it was found; empty where none fits."""
    unguided = "" if branches == full_size(model).branches else " --guidance-scale 1"
    command = f"plan {model} --topology {topology}{unguided} --compare-meshes"
    meshes = answer(command)["meshes"]
    if not meshes[0]["fits"]:
        return {}
    seconds = {str(MeshShape(**each["mesh"])): each["estimated_seconds"] for each in meshes}
    return {
        "mesh": next(iter(seconds)),
        "estimated_seconds": seconds,
        **how_found(command),
    }


if __name__ == "__main__":
    main()
