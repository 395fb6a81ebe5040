"""Plans that were made before, by all that they depend on."""

import json
from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import crystools_pipelines
from crystools_pipelines.planning.plan import Plan, from_json
from crystools_pipelines.runtime.defaults import read_defaults
from crystools_pipelines.runtime.run_spec import RunSpec
from crystools_tpu.telemetry import StageName, chips

_PACKAGES = ("jax", "jaxlib", "libtpu", "tokamax", "torchax", "torch", "diffusers", "transformers")
# No program depends on what these hold.
_CONTENT = {"prompt", "negative_prompt", "image", "seed"}


def plan_key(spec: RunSpec, only: frozenset[StageName] | None) -> str:
    """The same for what comes to the same plan: configurations, request, topology, mesh, stages, versions."""
    asked = {field.name: getattr(spec.request, field.name) for field in fields(spec.request)}
    parts: Mapping[str, Any] = {
        "topology": spec.topology,
        "model": spec.model,
        "mesh": str(spec.mesh),
        "only": None if only is None else sorted(only),
        "request": {name: repr(value) for name, value in asked.items() if name not in _CONTENT},
        "configurations": _digests(spec.configurations, "*.json"),
        "packages": {name: _version(name) for name in _PACKAGES},
        "source": _digests(Path(crystools_pipelines.__file__).parent, "*.py"),
        "defaults": {
            name: kept for name, kept in read_defaults().items() if name != "meshes" or not spec.mesh
        },
        "chips": sha256(Path(chips.__file__).read_bytes()).hexdigest(),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_plan(folder: Path, key: str) -> Plan | None:
    """The plan that was kept; None where there is none, or what is there is none."""
    try:
        return from_json(json.loads((folder / f"{key}.json").read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def keep_plan(folder: Path, key: str, plan: Plan) -> None:
    """Keeps the plan, whole or not at all. Raises OSError where it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{key}.partial"
    partial.write_text(json.dumps(plan.to_json()))
    partial.replace(folder / f"{key}.json")


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob(pattern))
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
