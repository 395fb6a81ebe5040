"""A stage that skips steps: what a plan says of full and cached ones. The programs are made up by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.aot import CompiledProgram, CompiledStage
from crystools_pipelines.planning.plan import Plan, RunSpec, StagePlan, compare, from_json
from crystools_pipelines.planning.planner import Planner
from crystools_pipelines.planning.rehearsal import Rehearsal, RehearsedStage, Work, _unread_device_bytes
from crystools_pipelines.planning.step_kinds import with_skips
from crystools_pipelines.planning.topologies import TOPOLOGIES
from crystools_pipelines.requests.step_cache import FirstBlockCache
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_tpu.cli.plan_display import print_meshes, print_plan
from crystools_tpu.telemetry import StageName
from tests.planning.plans import made_up_plan, made_up_stage

CHIP = TOPOLOGIES["v6e-8"].chip
assert CHIP.clock_hz is not None
SECOND = int(CHIP.clock_hz)  # of cycles
MIB = 2**20
PEAK = 8 * CHIP.peak_bf16_flops
FULL, CACHED = Work("full", 0.5 * PEAK, 0.0), Work("cached", 0.1 * PEAK, 0.0)


def product(cycles: int, name: str = "main", entry: str = "ENTRY ") -> str:
    """A matrix product of so many cycles."""
    return (
        f"{entry}%{name} (param.{name}: bf16[8,8]) -> bf16[8,8] {{\n"
        f"  %param.{name} = bf16[8,8]{{1,0}} parameter(0)\n"
        f"  ROOT %convolution.{name} = bf16[8,8]{{1,0}} convolution(%param.{name}),"
        f' backend_config={{"estimated_cycles":"{cycles}"}}\n}}\n'
    )


CONDITION = (
    product(3 * SECOND, "rest", "")
    + product(SECOND // 4, "residual", "")
    + f"""\
ENTRY %main (param.1: bf16[8,8], param.2: s32[]) -> bf16[8,8] {{
  %param.1 = bf16[8,8]{{1,0}} parameter(0)
  %param.2 = s32[]{{:T(128)}} parameter(1)
  %convolution.1 = bf16[8,8]{{1,0}} convolution(%param.1), backend_config={{"estimated_cycles":"{SECOND}"}}
  ROOT %conditional = bf16[8,8]{{1,0:T(8,128)(2,1)S(1)}} conditional(%param.2, %convolution.1, %param.1), \
branch_computations={{%rest, %residual}}, metadata={{op_name="jit(step)/cond" stack_frame_id=4}}
}}
"""
)
"""A first block of a second, and then the rest of three seconds, or a residual of a quarter."""


class Compiler:
    """Stands in for the TPU's: a run of one stage, and what its programs were compiled to."""

    def __init__(self, stage: RehearsedStage, *programs: CompiledProgram) -> None:
        self._rehearsal = Rehearsal(MeshShape(2, 4, 1), [], [stage])
        self._stage = CompiledStage(programs, 1.0)

    def outline(self, spec: RunSpec) -> Rehearsal:
        return self._rehearsal

    def compile_stage(self, spec: RunSpec, index: int) -> CompiledStage:
        return self._stage


def denoise(*steps: tuple[int, Work, Work | None]) -> RehearsedStage:
    """The stage with these steps: each the program that it runs, its work, and that if it is skipped."""
    stage = RehearsedStage(StageName.DENOISE, "transformer")
    for program, work, cached in steps:
        stage.ran(program)
        stage.step(work, cached)
    return stage


def planned(stage: RehearsedStage, *programs: str, memory: Sequence[int] = (10 * MIB, 20 * MIB)) -> Plan:
    made = [CompiledProgram(size, text) for text, size in zip(programs, memory, strict=False)]
    compiler: Any = Compiler(stage, *made)
    silent: Any = SimpleNamespace(outlined=id, compiling=id, finished=lambda *_: None)
    request = Wan21Request("", num_inference_steps=len(stage.steps))
    return Planner(compiler, RunSpec("v6e-8", "wan2.1-t2v", request, Path()), silent).plan(search=False)


@pytest.fixture(scope="module")
def known() -> Plan:
    """Two steps in three are cached, of a program of their own."""
    steps = [(0, FULL, None), (1, CACHED, None), (1, CACHED, None)]
    return planned(denoise(*steps), product(2 * SECOND), product(SECOND // 2))


@pytest.fixture(scope="module")
def undecided() -> Plan:
    """Ten steps of which the device decides, but for the first, which has nothing to take instead."""
    return planned(denoise(*[(0, FULL, CACHED)] * 10), CONDITION)


def test_steps_that_are_known_to_be_cached_are_estimated_apart(known: Plan) -> None:
    (stage,) = known.stages
    assert stage.seconds_by_kind == pytest.approx({"full": 2.0, "cached": 0.5})
    assert {steps.kind: steps.count for steps in stage.steps_by_kind} == {"full": 1, "cached": 2}
    assert stage.estimated_seconds == pytest.approx(3.0)
    assert stage.estimate is not None
    assert stage.estimate["matrix products and convolutions"] == pytest.approx(3.0)
    assert stage.flops == pytest.approx((0.5 + 2 * 0.1) * PEAK)
    assert stage.roofline_seconds == pytest.approx(0.7)
    assert stage.estimated_mfu == pytest.approx(0.7 / 3.0)
    assert (stage.steps, stage.undecided_steps, stage.peak_hbm_bytes_per_chip) == (3, 0, 20 * MIB)


def test_of_steps_of_which_the_device_decides_a_plan_says_the_least_and_the_most(undecided: Plan) -> None:
    (stage,) = undecided.stages
    assert stage.seconds_by_kind == pytest.approx({"full": 4.0, "cached": 1.25})
    assert {steps.kind: steps.count for steps in stage.steps_by_kind} == {"full": 1, "cached": 0}
    assert (stage.steps, stage.undecided_steps) == (10, 9)
    assert undecided.seconds_range == pytest.approx((4.0 + 9 * 1.25, 40.0))
    assert (stage.estimated_seconds, stage.estimated_mfu, stage.estimate) == (None, None, None)
    assert undecided.estimated_seconds is None
    assert stage.roofline_seconds == pytest.approx(0.5 + 9 * 0.1)  # no run is faster


@pytest.mark.parametrize(("share", "cached"), [(0.0, 0), (0.45, 4), (1.0, 9)])
def test_for_a_share_of_skips_the_run_is_estimated(undecided: Plan, share: float, cached: int) -> None:
    """The first step is none that could be skipped."""
    (stage,) = with_skips(undecided, share).stages
    assert {steps.kind: steps.count for steps in stage.steps_by_kind} == {
        "full": 10 - cached,
        "cached": cached,
    }
    seconds = (10 - cached) * 4.0 + cached * 1.25
    assert stage.estimated_seconds == pytest.approx(seconds)
    assert stage.seconds_range == (stage.estimated_seconds, stage.estimated_seconds)
    assert stage.estimated_mfu == pytest.approx((0.5 * (10 - cached) + 0.1 * cached) / seconds)


def test_a_share_of_skips_changes_no_stage_whose_steps_are_known(known: Plan) -> None:
    assert with_skips(known, 0.9) == known


def test_a_condition_that_the_compiler_has_made_none_of_is_said() -> None:
    (stage,) = planned(denoise(*[(0, FULL, CACHED)] * 2), product(SECOND)).stages
    (note,) = stage.notes
    assert note == "what is skipped is computed all the same: the compiler has made no condition of it"


def test_what_does_not_fit_has_no_estimate_of_any_step() -> None:
    too_much = 40 * 2**30
    (stage,) = planned(denoise((0, FULL, CACHED)), CONDITION, memory=[too_much]).stages
    assert not stage.fits
    assert (stage.seconds_by_kind, stage.seconds_range) == ({}, None)


def test_what_a_program_is_given_and_does_not_read_takes_room_too() -> None:
    """The last residual stays until a new one has been computed."""
    stage = denoise((0, FULL, None), (1, CACHED, None))
    stage.unread_device_bytes[0] = 15 * MIB
    (planned_stage,) = planned(stage, product(SECOND), product(SECOND)).stages
    assert planned_stage.peak_hbm_bytes_per_chip == 25 * MIB


def test_what_a_program_does_not_read_is_counted_where_it_is_on_a_device() -> None:
    """An eighth of 8 x 4 float32; a number of the host takes no room there."""
    mesh = Mesh(np.asarray(jax.devices()), ("tokens",))
    states = jax.ShapeDtypeStruct((8, 4), np.float32, sharding=NamedSharding(mesh, PartitionSpec("tokens")))
    args = states, states, np.int32(3)
    traced = jax.jit(lambda sample, last, start: 2 * sample).trace(*args)
    assert _unread_device_bytes(traced, args) == 16


def test_it_survives_its_own_json_and_an_older_plan_is_read_too(undecided: Plan) -> None:
    plain = json.loads(json.dumps(undecided.to_json()))
    assert from_json(plain) == undecided
    for name in ("steps_by_kind", "undecided_steps"):
        del plain["stages"][0][name]
    (stage,) = from_json(plain).stages
    assert (stage.steps_by_kind, stage.undecided_steps) == ((), 0)


def test_what_is_printed_as_json_says_what_all_stages_come_to(known: Plan, undecided: Plan) -> None:
    assert known.to_print()["estimated_seconds"] == pytest.approx(3.0)
    printed = undecided.to_print()
    assert printed["estimated_seconds"] is None
    assert printed["estimated_seconds_range"] == pytest.approx((15.25, 40.0))
    assert [steps["kind"] for steps in printed["stages"][0]["steps_by_kind"]] == ["full", "cached"]


def test_meshes_whose_skips_are_not_known_are_ranked_by_their_full_steps(undecided: Plan) -> None:
    other = planned(denoise(*[(0, FULL, CACHED)] * 3), CONDITION)
    plans = [undecided, dataclasses.replace(other, mesh=MeshShape(1, 8, 1))]
    ranked = compare(MeshShape(2, 4, 1), plans)
    assert [plan.mesh.sequence for plan in ranked.plans] == [8, 4]
    assert "6.5 to 12.0" in shown(lambda console: print_meshes(console, ranked, REQUEST))


REQUEST = Wan21Request("", num_inference_steps=10, step_cache=FirstBlockCache(0.1))


def shown(print_to: Any, width: int = 120) -> str:
    out = StringIO()
    print_to(Console(file=out, width=width, force_terminal=True, color_system=None))
    return out.getvalue()


def rows_of(plan: Plan, width: int = 120) -> list[str]:
    text = shown(lambda console: print_plan(console, plan, REQUEST, whole=True), width)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_full_and_cached_steps_have_rows_of_their_own(known: Plan, undecided: Plan) -> None:
    rows = rows_of(known)
    assert "denoise transformer yes 20.0 MiB 5.141 0.700 3.000 1.000 23.3% 1.0" in rows
    assert "1 full 3.672 2.000 2.000" in rows
    assert "2 cached 1.469 1.000 0.500" in rows
    assert "from the prompt to the frames: 3.000 s" in rows
    rows = rows_of(undecided)
    assert any("10 steps, step cache first-block:0.1" in row for row in rows)
    assert "denoise transformer yes 10.0 MiB n/a 1.400 n/a n/a n/a 1.0" in rows
    assert "all full 40.000 4.000" in rows
    assert "all cached 15.250 1.250" in rows
    assert any(row.startswith("one cached denoise transformer") for row in rows)
    ask = "by how many steps are skipped: give --skips SHARE"
    assert f"from the prompt to the frames: 15.2 to 40.0 s, {ask}" in rows


@pytest.mark.parametrize("width", [60, 80])
def test_the_rows_of_kinds_have_room_on_a_narrow_terminal(undecided: Plan, width: int) -> None:
    rows = rows_of(undecided, width)
    assert max(map(len, rows)) <= width
    assert "all cached 15.250 1.250" in " ".join(rows)


def test_a_plan_of_one_guidance_branch_says_which_mesh_that_has() -> None:
    plan, request = made_up_plan(made_up_stage("denoise", "transformer")), Wan21Request("", guidance_scale=1)
    text = shown(lambda console: print_plan(console, plan, request, whole=False))
    assert "mesh dp=1,sp=1,tp=8 (one guidance branch)" in text
    assert "these stages together: 225.000 s" in text


def test_a_stage_of_an_older_plan_has_full_steps_alone() -> None:
    stage: StagePlan = made_up_stage("denoise", "transformer")
    assert (stage.step_seconds, stage.seconds_range) == (4.5, (225.0, 225.0))
