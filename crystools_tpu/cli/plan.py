"""`crystools-tpu plan`: will it fit, and how fast, on a TPU that is not here."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from crystools_pipelines.models import MODELS
from crystools_pipelines.runtime.topologies import TOPOLOGIES
from crystools_tpu.cli.errors import CheckFailed, CommandError, needs_pipelines
from crystools_tpu.cli.generate import request_of
from crystools_tpu.cli.plan_display import print_plan, show_progress
from crystools_tpu.data_dir import cache_dir
from crystools_tpu.telemetry import StageName

if TYPE_CHECKING:
    from crystools_pipelines.planning.plan import Plan

PLANS = "plans"
"""Where in the cache folder plans are kept."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = commands.add_parser(
        "plan",
        help="say whether a model fits a TPU and how fast it would be, without a TPU",
        epilog="Compiles every stage with the TPU's own compiler; nothing is run, and no weights are read.",
    )
    parser.add_argument("model", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    add = parser.add_argument
    add("--topology", required=True, metavar="NAME", help=", ".join(TOPOLOGIES))
    add("--checkpoint", type=Path, metavar="DIR", help="another's configurations (default: as published)")
    add("--height", type=int, metavar="PIXELS")
    add("--width", type=int, metavar="PIXELS")
    add("--frames", type=int, metavar="N", help="of a video")
    add("--steps", type=int, metavar="N", help="denoising steps")
    add("--guidance-scale", type=float, help="1 and below: unguided (flux.2 is always guided)")
    add("--stages", metavar="NAMES", help="these alone, such as denoise,vae_decode (default: all)")
    add("--json", action="store_true", help="print the plan as JSON instead of tables")
    add("--no-cache", action="store_true", help="compile anew, even if the same was planned before")
    parser.set_defaults(run=run, prompt="")


def run(arguments: argparse.Namespace) -> None:
    """Prints the plan. Raises CheckFailed where the run does not fit."""
    if arguments.topology not in TOPOLOGIES:
        known = ", ".join(TOPOLOGIES)
        raise CommandError(f"--topology: {arguments.topology!r} is not known; give one of {known}")
    if arguments.checkpoint is not None and not arguments.checkpoint.is_dir():
        raise CommandError(f"--checkpoint: {arguments.checkpoint} is no folder; give one, or leave it out")
    request = _request(arguments)
    plan = _plan(arguments, request, _only(arguments.stages))
    if arguments.json:
        print(json.dumps(plan.to_json(), indent=2), flush=True)
    else:
        print_plan(Console(), plan, request)
    if not plan.fits:
        raise CheckFailed(_does_not_fit(plan))


def _request(arguments: argparse.Namespace) -> Any:
    with needs_pipelines():
        import numpy as np
    known = {field.name for field in dataclasses.fields(MODELS[arguments.model].request_class())}
    # What is in it does not matter, and it is stretched to the video's size.
    image = np.zeros((16, 16, 3), np.float32) if "image" in known else None
    return request_of(argparse.Namespace(**vars(arguments), image=image))


def _only(names: str | None) -> frozenset[StageName] | None:
    if names is None:
        return None
    try:
        return frozenset(StageName(name.strip()) for name in names.split(","))
    except ValueError as error:
        known = ", ".join(sorted(set(StageName) - {StageName.LOAD, StageName.SAVE}))
        raise CommandError(f"--stages: {error}; give some of {known}") from None


def _plan(arguments: argparse.Namespace, request: Any, only: frozenset[StageName] | None) -> Plan:
    """The plan that was made of the same before, or a new one, which is kept."""
    with needs_pipelines():
        from crystools_pipelines.planning.cache import keep_plan, plan_key, read_plan
    with _configurations(arguments) as configurations:
        key = plan_key(arguments.topology, arguments.model, request, configurations, only)
        folder = cache_dir() / PLANS
        plan = None if arguments.no_cache else read_plan(folder, key)
        if plan is not None:
            print("planned before; --no-cache compiles anew", file=sys.stderr)
            return plan
        plan = _new_plan(arguments, request, configurations, only)
        try:
            keep_plan(folder, key, plan)
        except OSError as error:
            print(f"crystools-tpu: the plan is not kept: {error}", file=sys.stderr)
        return plan


def _new_plan(
    arguments: argparse.Namespace, request: Any, configurations: Path, only: frozenset[StageName] | None
) -> Plan:
    if importlib.util.find_spec("libtpu") is None:
        raise CommandError(
            "libtpu (the TPU's compiler) is not installed: pip install 'crystools-tpu[pipelines,tpu]'"
        )
    with needs_pipelines():
        from crystools_pipelines.planning.planner import Planner
        from crystools_pipelines.runtime.aot import TpuCompiler
        from crystools_pipelines.runtime.errors import PipelineError
    try:
        with show_progress(Console(stderr=True)) as progress, TpuCompiler() as compiler:
            asked = arguments.topology, arguments.model, configurations
            return Planner(compiler, *asked, progress, only).plan(request)
    except PipelineError as error:
        raise CommandError(str(error)) from None


@contextlib.contextmanager
def _configurations(arguments: argparse.Namespace) -> Iterator[Path]:
    if arguments.checkpoint is not None:
        yield arguments.checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="crystools-tpu-") as folder:
        yield MODELS[arguments.model].write_published(Path(folder))


def _does_not_fit(plan: Plan) -> str:
    failing = ", ".join(stage.label for stage in plan.stages if not stage.fits)
    remedies = [f"{shape} would fit" for shape in plan.largest_that_fits] or ["try more chips"]
    return f"does not fit {plan.topology} ({failing}); {'; '.join(remedies)}"
