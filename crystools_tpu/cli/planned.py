"""What kept plans say of a finished run: which mesh or shape the compiler estimates to be faster."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from crystools_pipelines.errors import RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh_shape import MeshShape, parse_mesh
from crystools_pipelines.planning.alternatives import Alternative, kept_alternatives
from crystools_pipelines.planning.plan import RunSpec
from crystools_pipelines.planning.topologies import topology_named
from crystools_pipelines.requests.fields import Role, Setting, settings_of
from crystools_pipelines.requests.request import GuidedVideoRequest
from crystools_tpu.cli.requests import options
from crystools_tpu.telemetry import RunReport
from crystools_tpu.telemetry.amounts import duration_text, pace_text
from crystools_tpu.telemetry.events import MESH
from crystools_tpu.telemetry.proposals import Proposal

_WORTH_IT: Final = -0.03


def planned_proposals(report: RunReport) -> tuple[list[Proposal], str | None]:
    """What kept plans propose, and the command that would say more where none is kept of other meshes.

    Nothing of a run that could not be planned: of another's pipeline, or on what is no TPU of TOPOLOGIES.
    """
    model, mesh = _model_of(report), _mesh_of(report)
    device = report.device
    topology = None if device is None else topology_named(device.kind, device.count)
    request = None if model is None else _request_of(model, report)
    if model is None or mesh is None or topology is None or request is None:
        return [], None
    with _configurations(model, report) as configurations:
        if configurations is None:
            return [], None
        own, others = kept_alternatives(RunSpec(topology, model, request, configurations, mesh), mesh)
    proposals = [] if own is None else [_proposal(other, mesh, own) for other in others]
    ask = f"which mesh is best, `{_command(model, topology, request)}` says, without a TPU"
    knows_meshes = own is not None and any(other.shape is None for other in others)
    return (
        [proposal for proposal in proposals if proposal.ratio <= _WORTH_IT],
        None if knows_meshes or mesh.devices == 1 else ask,
    )


def _proposal(other: Alternative, mesh: MeshShape, own_seconds: float) -> Proposal:
    ratio = other.step_seconds / own_seconds - 1
    what = f"mesh {other.mesh} instead of {mesh}"
    if other.shape is not None:
        what = f"at {other.shape}" + ("" if other.mesh == mesh else f" with mesh {other.mesh}")
    steps = f"{duration_text(other.step_seconds)} a step instead of {duration_text(own_seconds)}"
    return Proposal(f"{what}: by the compiler's estimate {steps}, {pace_text(ratio)}", ratio, "plan")


def _model_of(report: RunReport) -> str | None:
    """The run's own, or that of the stages in a workflow's nodes."""
    named = [report.pipeline, *(stage.pipeline for stage in report.stages)]
    return next((name for name in named if name in MODELS), None)


def _mesh_of(report: RunReport) -> MeshShape | None:
    if report.device is not None and report.device.count == 1:
        return MeshShape()
    with contextlib.suppress(RequestError):
        return parse_mesh(str(report.params.get(MESH, "")))
    return None


def _request_of(model: str, report: RunReport) -> Any | None:
    """What was asked, but for its content; None where the report does not say it in full."""
    request_class = MODELS[model].request_class()
    declared = settings_of(request_class)
    fields = {name for name, each in declared.items() if each.role is not Role.CONTENT}
    try:
        known = {
            name: _value(declared[name], name, value)
            for name, value in report.params.items()
            if name in fields
        }
        return request_class.of_any_content(**known)
    except (RequestError, TypeError):
        return None


def _value(declared: Setting, name: str, said: Any) -> Any:
    """The field's value of what a report says of it (`params_of`). Raises RequestError for what is none."""
    if declared.parse is None or not isinstance(said, str):
        return said
    return declared.parsed(name, said.split(", ") if declared.repeated else said)


@contextlib.contextmanager
def _configurations(model: str, report: RunReport) -> Iterator[Path | None]:
    """The checkpoint's folder; of the published checkpoint its configurations; None of any other."""
    if report.model_id is not None and (folder := Path(report.model_id)).is_dir():
        yield folder
    elif report.model_id == MODELS[model].hub_id:
        with tempfile.TemporaryDirectory(prefix="crystools-tpu-") as folder_name:
            yield MODELS[model].write_published(Path(folder_name))
    else:
        yield None


def _command(model: str, topology: str, request: Any) -> str:
    """The command that plans all meshes of the request, for as many guidance branches."""
    said = [f"crystools-tpu plan {model} --topology {topology}"]
    known, unguided = options(), isinstance(request, GuidedVideoRequest) and request.branches == 1
    for name, declared in settings_of(type(request)).items():
        value = getattr(request, name)
        is_for_branches = name == "guidance_scale" and unguided
        if (declared.role in (Role.SHAPE, Role.PROGRAM) or is_for_branches) and value != declared.default:
            said.append(f"{known[name].flag} {value}")
    return " ".join([*said, "--compare-meshes"])
