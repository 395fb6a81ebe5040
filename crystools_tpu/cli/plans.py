"""Plans as commands make them: kept in the cache folder, and with what is done shown."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from crystools_pipelines.errors import PipelineError
from crystools_pipelines.planning.cache import keep_plan, plan_key, plans_folder, read_plan
from crystools_pipelines.planning.compiler_process import ProcessDiedError
from crystools_pipelines.planning.plan import RunSpec
from crystools_pipelines.planning.topologies import TOPOLOGIES, topology_of
from crystools_tpu.cli.console import make_console
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.cli.plan_display import show_progress
from crystools_tpu.cli.requests import refusal
from crystools_tpu.telemetry import StageName
from crystools_tpu.telemetry.device_names import kind_label

if TYPE_CHECKING:
    from crystools_pipelines.parallel.mesh_shape import MeshShape
    from crystools_pipelines.planning.aot import TpuCompiler
    from crystools_pipelines.planning.plan import Plan


class Plans:
    """Plans of the same stages: those that were made before, and new ones, which are kept.

    The compiler is there from the first new one until the context ends. One that is gone is replaced.
    """

    def __init__(self, only: frozenset[StageName] | None, *, anew: bool) -> None:
        self._only = only
        self._anew = anew
        self._folder = plans_folder()
        self._unkept = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Plans:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def meshes(self, spec: RunSpec) -> tuple[MeshShape, list[MeshShape]]:
        """The default one, and every one that such a run can have."""
        with refusals():
            return self._compiler.meshes(spec)

    def plan(self, spec: RunSpec, *, search: bool = True) -> Plan:
        """The plan; `search` is for what would fit where it does not."""
        key = plan_key(spec, self._only)
        plan = None if self._anew else read_plan(self._folder, key)
        if plan is not None and (plan.largest_that_fits is not None or not search):
            print("planned before; --no-cache compiles anew", file=sys.stderr)
            return plan
        from crystools_pipelines.planning.planner import Planner

        with refusals(), show_progress(make_console(stderr=True)) as progress:
            try:
                plan = Planner(self._compiler, spec, progress, self._only).plan(search=search)
            except ProcessDiedError:
                self._stack.close()
                del self._compiler  # the next plan has a new one
                raise
        try:
            keep_plan(self._folder, key, plan)
        except OSError as error:
            if not self._unkept:
                print(f"crystools-tpu: the plan is not kept: {error}", file=sys.stderr)
            self._unkept = True
        return plan

    @functools.cached_property
    def _compiler(self) -> TpuCompiler:
        return self._stack.enter_context(tpu_compiler())


def plan_first(model: str, request: Any, *, checkpoint: str, devices: int, mesh: MeshShape | None) -> None:
    """Keeps the plan of a run on this machine's own devices, which the run then finds.

    Raises CommandError where they are no TPU that can be planned for.
    """
    from crystools_pipelines.runtime.job import choose_devices
    from crystools_pipelines.weights.checkpoint import Checkpoint

    with refusals():
        chosen = choose_devices(devices)
        topology = topology_of(chosen)
        if topology is None:
            here, known = f"{len(chosen)} x {kind_label(chosen[0].device_kind)}", ", ".join(TOPOLOGIES)
            raise CommandError(f"--plan: the devices ({here}) are none of {known}; leave it out")
        source = Checkpoint(checkpoint).with_loras(request.loras)  # one that cannot be had is refused now
        configurations = source.configurations()
        with Plans(None, anew=False) as plans:
            plans.plan(RunSpec(topology, model, request, configurations, mesh, checkpoint))


def tpu_compiler() -> TpuCompiler:
    """A compiler. Raises CommandError where what it needs is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise CommandError(
            "libtpu (the TPU's compiler) is not installed: pip install 'crystools-tpu[pipelines,tpu]'"
        )
    from crystools_pipelines.planning.aot import TpuCompiler

    return TpuCompiler()


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What a pipeline refuses, and the end of its compiler, ends the command."""
    try:
        yield
    except PipelineError as error:
        raise refusal(error) from None
    except ProcessDiedError as error:
        raise CommandError(f"the compiler is gone, mostly for want of memory here: {error}") from None
