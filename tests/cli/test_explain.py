"""`runs explain` on runs of which each was made with one cause: it says that one, and no other.

Recorded by the real recorder under a clock that only the test moves, kept in a real history.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from crystools_exporters.run_log import RunLog
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh_shape import parse_mesh
from crystools_pipelines.planning.cache import keep_plan, plan_key, plans_folder
from crystools_pipelines.planning.plan import RunSpec
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_tpu.cli import main
from crystools_tpu.telemetry import RunReport, Shape
from crystools_tpu.telemetry.evictions import eviction_text
from tests.planning.plans import made_up_plan, made_up_stage
from tests.web.scenes import GIB, PARAMS, Scene, V6eChip

Output = pytest.CaptureFixture[str]

MODEL = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
MESH, ANOTHER = "dp=2,sp=1,tp=4", "dp=1,sp=1,tp=8"
SHAPES = "at latents, now f32[8,8] and before f32[16,16]"


@dataclass
class Lab:
    """Makes runs that differ from the usual one as they are told to."""

    scene: Scene
    log: RunLog

    def usual(self, count: int = 5) -> None:
        """Runs of 20 s, each a little different."""
        for number in range(count):
            self.make(save=0.8 + 0.1 * number)

    def make(
        self,
        *,
        step: float = 1.6,
        wait: float = 0.0,
        recompile: float = 0.0,
        load: float = 0.1,
        save: float = 1.0,
        mesh: str = MESH,
        **params: Any,
    ) -> RunReport:
        """A run of ten steps; the compile of the first one is in the cache."""
        clock = self.scene.clock
        devices = [V6eChip(number) for number in range(8)]
        asked = {**PARAMS, "mesh": mesh, **params}
        with self.scene.run(model_id=MODEL, params=asked, devices=devices) as run:
            with run.stage("load", component="transformer"):
                clock.seconds += load
            with run.stage("denoise", component="transformer", steps=10, flops_per_step=1e15) as stage:
                for number in range(10):
                    if number == 0:
                        self.scene.compile(stage, 2.0)
                    elif number == 9 and recompile:
                        self.scene.compile(stage, recompile, SHAPES)
                    clock.seconds += wait
                    self.scene.step(stage, step)
            with run.stage("save"):
                clock.seconds += save
        return self.keep()

    def keep(self) -> RunReport:
        """The last run, in the history now."""
        report = self.scene.history.reports()[0]
        self.log.write([report])
        return report


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    with RunLog(tmp_path / "data") as log:
        yield Lab(Scene(), log)


def explained(capsys: Output, *options: str) -> str:
    """What the command prints of the latest run."""
    assert main(["runs", "explain", "latest", *options]) == 0
    return capsys.readouterr().out


def sentence(capsys: Output) -> str:
    return explained(capsys).splitlines()[0]


def test_a_recompile(lab: Lab, capsys: Output) -> None:
    lab.usual()
    lab.make(recompile=4.0)
    assert sentence(capsys) == (
        "21% slower than its last five (23.1 s instead of 19.1 s): recompiled at step 9 of Denoise "
        "transformer "
        "(4.0 s), shape f32[8,8] instead of f32[16,16]. To do: give every step the same shape."
    )


def test_chips_that_wait_for_the_host(lab: Lab, capsys: Output) -> None:
    lab.usual()
    lab.make(wait=2.0)
    out = explained(capsys)
    assert out.startswith(
        "2.0 times as slow as its last five (39.1 s instead of 19.1 s): Denoise transformer was host-bound: "
        "the chips waited 18 s for the host, 56% of its steps. To do: take out of the loop over the steps"
    )
    row = next(line for line in out.splitlines() if line.startswith(" Denoise"))
    assert " host " in row
    assert "waited 18.0 s for the host" in row
    assert "- if the chips never waited for the host: 18 s less of 39.1 s, 46% faster" in out


def test_a_mesh_that_was_slower(lab: Lab, capsys: Output) -> None:
    lab.usual()
    lab.make(step=2.0, mesh=ANOTHER)
    out = explained(capsys)
    assert out.startswith(
        f"21% slower than its last five (23.1 s instead of 19.1 s): mesh {ANOTHER} instead of {MESH}, "
        f"Denoise "
        f"transformer took 2.00 s a step instead of 1.60 s. To do: go back to --mesh {MESH}."
    )
    assert f"- mesh {MESH} instead of {ANOTHER}: 1.60 s a step (run " in out
    assert "this one 2.00 s, 20% faster" in out


def test_a_model_that_had_been_evicted(lab: Lab, capsys: Output) -> None:
    lab.usual()
    with lab.scene.run("flux.2") as flux:
        lab.scene.clock.seconds += 60.0
        flux.warn(
            eviction_text("evicted", "transformer", MODEL, 28 * GIB, "for another that needed the room")
        )
    lab.keep()
    lab.make(load=10.0)
    assert sentence(capsys) == (
        "52% slower than its last five (29.0 s instead of 19.1 s): transformer was loaded again (10 s): run "
        f"{flux.run_id[:8]} (flux.2) had evicted its 28.00 GiB for another that needed the room. To do: it "
        "stays in memory as long as nothing else needs the room."
    )


def test_a_slower_run_without_a_cause(lab: Lab, capsys: Output) -> None:
    lab.usual()
    lab.make(step=1.8)
    assert sentence(capsys) == (
        "10% slower than its last five (21.1 s instead of 19.1 s), Denoise transformer took 1.80 s a step "
        "instead of 1.60 s; nothing in its report says why."
    )


def test_a_faster_run(lab: Lab, capsys: Output) -> None:
    for _ in range(5):
        lab.make(wait=0.4)
    lab.make()
    assert sentence(capsys) == (
        "17% faster than its last five (19.1 s instead of 23.1 s): Denoise transformer waited 3.6 s less for "
        "the host."
    )


def test_a_cause_that_covers_a_part_alone_is_said_of_that_part(lab: Lab, capsys: Output) -> None:
    lab.usual()
    lab.make(recompile=1.0, step=1.8)
    assert sentence(capsys).startswith(
        "16% slower than its last five (22.1 s instead of 19.1 s), of which 1.0 s: recompiled at step 9 of "
        "Denoise transformer (1.0 s), shape f32[8,8] instead of f32[16,16]; of the rest nothing in its "
        "report "
        "says why (Denoise transformer took 1.80 s a step instead of 1.60 s)."
    )


def test_the_last_five_are_those_before_the_run(lab: Lab, capsys: Output) -> None:
    lab.usual()
    slow = lab.make(step=2.0)
    for _ in range(25):
        lab.log.write([replace(lab.make(step=4.0), run_id=f"later{_}")])
    assert main(["runs", "explain", slow.run_id, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["explanation"]["run_id"] == slow.run_id
    assert (told["explanation"]["alike"], told["explanation"]["verdict"]) == (5, "worse")
    assert [stage["bound"] for stage in told["stages"]] == [None, "save"]


def test_what_other_shapes_and_fewer_steps_took_is_proposed_with_their_figures(
    lab: Lab, capsys: Output
) -> None:
    lab.make(step=0.4, height=480, width=832)
    lab.make(step=3.0, height=1088, width=1920)
    lab.make(num_inference_steps=25, load=0.0)
    lab.make(step=0.8, flow_shift=3.0, seed=7)
    lab.make()
    proposals = explained(capsys).partition("What would change it:\n")[2].splitlines()
    assert [line.partition(" (run ")[0] for line in proposals[:2]] == [
        "- at 480 x 832, 81 frames instead of 720 x 1280, 81 frames: 0.400 s a step",
        "- flow shift 3.0 instead of 5.0: 0.800 s a step",
    ]
    assert proposals[2:] == [
        "- unknown: which mesh is best, `crystools-tpu plan wan2.1-t2v --topology v6e-8 "
        "--compare-meshes` says, "
        "without a TPU"
    ]


def test_kept_plans_of_other_meshes_and_shapes_are_proposed_by_their_estimates(
    lab: Lab, tmp_path: Path, capsys: Output
) -> None:
    request = Wan21Request.of_any_content(
        **{name: PARAMS[name] for name in ("height", "width", "num_frames")}
    )
    configurations = MODELS["wan2.1-t2v"].write_published(tmp_path / "published")

    def keep(mesh: str, step_seconds: float, **shape: Any) -> None:
        asked = replace(request, **shape)
        stage = replace(made_up_stage("denoise", "transformer"), estimated_seconds=50 * step_seconds)
        plan = replace(
            made_up_plan(stage, mesh=parse_mesh(mesh)),
            shape=Shape(asked.height, asked.width, asked.num_frames),
        )
        spec = RunSpec("v6e-8", "wan2.1-t2v", asked, configurations, parse_mesh(mesh))
        keep_plan(plans_folder(), plan_key(spec, None), plan)

    keep(MESH, 4.1)
    keep(ANOTHER, 4.9)
    keep("dp=1,sp=2,tp=4", 5.5)
    keep(ANOTHER, 1.4, height=480, width=832)
    lab.make(mesh=ANOTHER, scheduler="euler", sigmas="1.0, 0.5", loras="high:a=1, b=0.5")
    assert explained(capsys).partition("What would change it:\n")[2].splitlines() == [
        "- at 480 x 832, 81 frames: by the compiler's estimate 1.40 s a step instead of 4.90 s, 71% faster",
        f"- mesh {MESH} instead of {ANOTHER}: by the compiler's estimate 4.10 s a step instead of 4.90 "
        f"s, 16% "
        "faster",
    ]


def test_a_run_that_goes_on_cannot_be_explained_yet(lab: Lab, capsys: Output) -> None:
    with lab.scene.run():
        lab.keep()
        assert main(["runs", "explain", "latest"]) == 2
    assert capsys.readouterr().err == (
        "crystools-tpu: latest is still running; it can be explained when it has ended\n"
    )
