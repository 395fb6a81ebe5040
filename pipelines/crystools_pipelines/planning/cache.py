"""Plans that were made before, by all that they depend on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import crystools_pipelines
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.defaults import read_defaults
from crystools_pipelines.planning.plan import Plan, RunSpec, from_json
from crystools_pipelines.requests.fields import Role, values_of
from crystools_pipelines.requests.step_cache import MagCache
from crystools_tpu.data_dir import MAG_RATIOS, cache_dir, data_dir
from crystools_tpu.telemetry import StageName, chips
from crystools_tpu.whole_file import written_whole

_PACKAGES = ("jax", "jaxlib", "libtpu", "tokamax", "torchax", "torch", "diffusers", "transformers")
_PACKAGE = Path(crystools_pipelines.__file__).parent
_CONFIGURATIONS = ("model_index.json", "*/config.json", "*/scheduler_config.json")


def plans_folder() -> Path:
    """Where a user's plans are kept."""
    return cache_dir() / "plans"


def plan_key(spec: RunSpec, only: frozenset[StageName] | None) -> str:
    """A key that is equal for equal plans: of what `programs_key` names, mesh, stages and schedule.

    And of the ratios by which steps are skipped, where they are; never of what goes into the weights.
    """
    rest: dict[str, Any] = {
        "mesh": str(spec.mesh),
        "only": None if only is None else sorted(only),
        "best_meshes": None if spec.mesh else read_defaults()["meshes"],
        "schedule": _asked(spec.request, Role.SCHEDULE),
    }
    if isinstance(spec.request.step_cache, MagCache):
        own = _digests(data_dir() / MAG_RATIOS, "*")
        rest["ratios"] = [_digests(_PACKAGE, "**/mag_ratios.json"), own, spec.checkpoint if own else None]
    return f"{programs_key(spec)}-{_digest(rest)}"


def programs_key(spec: RunSpec) -> str:
    """The key of runs of the same programs, but for the mesh: of size, configurations, topology, versions."""
    return _digest(
        {
            "topology": spec.topology,
            "model": spec.model,
            "shape": _asked(spec.request, Role.SHAPE),
            "program": _asked(spec.request, Role.PROGRAM),
            "branches": spec.request.branches,
            "configurations": _configurations(spec),
            "packages": {name: _version(name) for name in _PACKAGES},
            "source": _digests(_PACKAGE, "**/*.py"),
            "defaults": {name: kept for name, kept in read_defaults().items() if name != "meshes"},
            "chips": sha256(Path(chips.__file__).read_bytes()).hexdigest(),
        }
    )


def read_plan(folder: Path, key: str) -> Plan | None:
    """The plan that was kept; None where there is none, or what is there is none."""
    return _read(folder / f"{key}.json")


def read_plans(folder: Path, spec: RunSpec) -> Iterator[Plan]:
    """The plans that were kept of these programs, of any mesh, stages and schedule, the newest first.

    Raises OSError where the folder cannot be read.
    """
    paths = folder.glob(f"{programs_key(spec)}-*.json")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        if (plan := _read(path)) is not None:
            yield plan


def read_other_shapes(folder: Path, spec: RunSpec) -> Iterator[Plan]:
    """The plans that were kept of the same, but of other shapes, which are in `Plan.shape`.

    Raises OSError where the folder cannot be read.
    """
    own, keys = _asked(spec.request, Role.SHAPE), {}
    for path in folder.glob("*.json"):
        plan = _read(path)
        if plan is None or plan.shape is None or (plan.model, plan.topology) != (spec.model, spec.topology):
            continue
        if plan.shape not in keys:
            shape = {name: getattr(plan.shape, name) for name in own}
            keys[plan.shape] = programs_key(replace(spec, request=replace(spec.request, **shape)))
        if path.name.startswith(keys[plan.shape]) and keys[plan.shape] != programs_key(spec):
            yield plan


def keep_plan(folder: Path, key: str, plan: Plan) -> None:
    """Keeps the plan, whole or not at all. Raises OSError where it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / f"{key}.json") as unfinished:
        unfinished.write_text(json.dumps(plan.to_json()))


def _read(path: Path) -> Plan | None:
    try:
        return from_json(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _asked(request: Any, role: Role) -> dict[str, str]:
    return {name: repr(value) for name, value in values_of(request, role).items()}


def _configurations(spec: RunSpec) -> Mapping[str, Any]:
    """The published ones for a checkpoint that agrees with them, so that a plan without it counts for it."""
    model = MODELS[spec.model]
    if model.is_published(spec.configurations):
        return model.published()
    return _digests(spec.configurations, *_CONFIGURATIONS)


def _digest(parts: Mapping[str, Any]) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path, *patterns: str) -> dict[str, str]:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in paths}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
