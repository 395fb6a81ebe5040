"""`crystools-tpu plan`: will it fit, and how fast, on a TPU that is not here."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crystools_pipelines.models import MODELS
from crystools_pipelines.planning.plan import RunSpec, compare
from crystools_pipelines.planning.topologies import TOPOLOGIES
from crystools_pipelines.requests.fields import Role
from crystools_tpu.cli.console import make_console
from crystools_tpu.cli.errors import CheckFailed, CommandError
from crystools_tpu.cli.help import add_command
from crystools_tpu.cli.plan_display import print_meshes, print_plan, print_tuning, show_tries
from crystools_tpu.cli.plans import Plans, refusals, tpu_compiler
from crystools_tpu.cli.requests import add_mesh, add_preset, mesh_of, options, request_of
from crystools_tpu.telemetry import StageName

if TYPE_CHECKING:
    from crystools_pipelines.planning.plan import Plan


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "plan",
        "say whether a model fits a TPU and how fast it would be, without a TPU",
        ("the model as published", "plan wan2.1-t2v --topology v6e-8"),
        (
            "a longer video, its denoising alone",
            "plan wan2.1-t2v --topology v6e-8 --frames 121 --stages denoise",
        ),
        ("how its chips should share the work", "plan flux.2 --topology v5p-8 --compare-meshes"),
        (
            "with the configurations of a checkpoint, as JSON",
            "plan wan2.2-i2v --topology v6e-8 --checkpoint ./my-model --json",
        ),
        more="Compiles every stage with the TPU's own compiler; nothing is run, and no weights are read.",
        usage="crystools-tpu plan MODEL --topology NAME [OPTION ...]",
    )
    parser.add_argument("model", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    add = parser.add_argument
    add("--topology", required=True, metavar="NAME", help=", ".join(TOPOLOGIES))
    add("--checkpoint", type=Path, metavar="DIR", help="another's configurations (default: as published)")
    for option in options().values():
        if option.setting.role is not Role.CONTENT:  # on which no plan depends
            option.add_to(parser)
    add_preset(parser)
    add("--stages", metavar="NAMES", help="these alone, such as denoise,vae_decode (default: all)")
    add_mesh(parser)
    instead = parser.add_mutually_exclusive_group().add_argument
    about = "rank every mesh by the estimate of its denoising, or of --stages"
    instead("--compare-meshes", action="store_true", help=about)
    about = "rank block sizes of the attention kernel by the estimate of its largest call in denoising"
    instead("--tune-attention", action="store_true", help=about)
    add("--json", action="store_true", help="print the plan as JSON instead of tables")
    add("--no-cache", action="store_true", help="compile anew, even if the same was planned before")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints the plan, or the comparison. Raises CheckFailed where nothing fits."""
    if arguments.topology not in TOPOLOGIES:
        known = ", ".join(TOPOLOGIES)
        raise CommandError(f"--topology: {arguments.topology!r} is not known; give one of {known}")
    if arguments.checkpoint is not None and not arguments.checkpoint.is_dir():
        raise CommandError(f"--checkpoint: {arguments.checkpoint} is no folder; give one, or leave it out")
    if arguments.compare_meshes and arguments.mesh is not None:
        raise CommandError("--mesh: --compare-meshes plans all of them; leave one of the two out")
    request = request_of(arguments, of_any_content=True)
    mesh, only = mesh_of(arguments.mesh), _only(arguments.stages)
    with _configurations(arguments) as configurations:
        spec = RunSpec(arguments.topology, arguments.model, request, configurations, mesh)
        if arguments.compare_meshes:
            _compare_meshes(arguments, spec, only or frozenset({StageName.DENOISE}))
        elif arguments.tune_attention:
            _tune_attention(arguments, spec)
        else:
            _plan(arguments, spec, only)


def _plan(arguments: argparse.Namespace, spec: RunSpec, only: frozenset[StageName] | None) -> None:
    with Plans(only, anew=arguments.no_cache) as plans:
        plan = plans.plan(spec)
    if arguments.json:
        print(json.dumps(plan.to_json(), indent=2), flush=True)
    else:
        print_plan(make_console(), plan, spec.request)
    if not plan.fits:
        raise CheckFailed(_does_not_fit(plan))


def _compare_meshes(arguments: argparse.Namespace, spec: RunSpec, only: frozenset[StageName]) -> None:
    with Plans(only, anew=arguments.no_cache) as plans:
        default, legal = plans.meshes(spec)
        made, failures = [], []
        for number, mesh in enumerate(legal, 1):
            print(f"mesh {mesh} ({number} of {len(legal)})", file=sys.stderr)
            try:
                made.append(plans.plan(dataclasses.replace(spec, mesh=mesh), search=False))
            except CommandError as error:
                failures.append(error)
                print(f"mesh {mesh} is left out: {error}", file=sys.stderr)
        if not made:
            raise failures[-1]
    comparison = compare(default, made)
    if arguments.json:
        print(json.dumps(comparison.to_json(), indent=2), flush=True)
    else:
        print_meshes(make_console(), comparison, spec.request)
    if not comparison.plans[0].fits:
        raise CheckFailed(f"does not fit {spec.topology} with any mesh; try more chips")


def _tune_attention(arguments: argparse.Namespace, spec: RunSpec) -> None:
    with tpu_compiler() as compiler, refusals(), show_tries(make_console(stderr=True)) as tried:
        from crystools_pipelines.planning.tuning import tune_attention

        tuning = tune_attention(compiler, spec, tried)
    if arguments.json:
        print(json.dumps(tuning.to_json(), indent=2), flush=True)
    else:
        print_tuning(make_console(), tuning)


def _only(names: str | None) -> frozenset[StageName] | None:
    if names is None:
        return None
    try:
        return frozenset(StageName(name.strip()) for name in names.split(","))
    except ValueError as error:
        known = ", ".join(sorted(set(StageName) - {StageName.DOWNLOAD, StageName.LOAD, StageName.SAVE}))
        raise CommandError(f"--stages: {error}; give some of {known}") from None


@contextlib.contextmanager
def _configurations(arguments: argparse.Namespace) -> Iterator[Path]:
    if arguments.checkpoint is not None:
        yield arguments.checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="crystools-tpu-") as folder:
        yield MODELS[arguments.model].write_published(Path(folder))


def _does_not_fit(plan: Plan) -> str:
    failing = ", ".join(stage.label for stage in plan.stages if not stage.fits)
    remedies = [f"{shape} would fit" for shape in plan.largest_that_fits or ()] or ["try more chips"]
    return f"does not fit {plan.topology} ({failing}); {'; '.join(remedies)}"
