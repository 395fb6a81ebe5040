"""What a kept plan says of a run that is about to begin. The plans are made up: nothing is compiled."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import pytest

from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh import shape_of
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.cache import keep_plan, plan_key, read_plans
from crystools_pipelines.planning.forecasting import METHOD, kept_forecast
from crystools_pipelines.planning.plan import Plan, PlannedSteps, RunSpec
from crystools_pipelines.planning.topologies import topology_of
from crystools_pipelines.requests.lora import Lora
from crystools_pipelines.requests.step_cache import MagCache
from crystools_pipelines.wan.wan21_t2v.pipeline import PIPELINE
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu.data_dir import MAG_RATIOS
from crystools_tpu.telemetry import Forecast, Shape, StageForecast, StageName
from tests.planning.plans import GIB, made_up_plan, made_up_stage

REQUEST = Wan21Request("a cat", height=32, width=48, num_frames=9)
ENCODE, DENOISE = made_up_stage("text_encode", steps=1), made_up_stage("denoise", "transformer")
DECODE = made_up_stage("vae_decode", steps=3)
TOO_LARGE = made_up_stage("denoise", "transformer", fits=False, peak_gib=40)
SHAPES = (Shape(32, 48, 5), Shape(16, 32, 9))


@dataclass
class Desk:
    """Where plans of a v6e-8 are kept, and runs of a checkpoint ask for them."""

    folder: Path
    checkpoint: Path

    def keep(
        self, plan: Plan, request: Wan21Request = REQUEST, only: frozenset[StageName] | None = None
    ) -> Path:
        """Keeps the plan as `crystools-tpu plan` does, for the mesh that a usual run has."""
        plan = replace(plan, mesh=shape_of(self.mesh(request)))
        key = plan_key(RunSpec(plan.topology, plan.model, request, self.checkpoint), only)
        keep_plan(self.folder, key, plan)
        return self.folder / f"{key}.json"

    def mesh(self, request: Wan21Request, shape: MeshShape | None = None) -> jax.sharding.Mesh:
        return PIPELINE.mesh(jax.devices(), Checkpoint(self.checkpoint), request.branches, shape)

    def ask(
        self,
        request: Wan21Request = REQUEST,
        *,
        topology: str | None = "v6e-8",
        mesh: MeshShape | None = None,
        dtype: str | None = None,
    ) -> Forecast | None:
        """The forecast of a run on eight devices of the CPU, taken for a v6e-8."""
        return kept_forecast(
            "wan2.1-t2v",
            request,
            Checkpoint(self.checkpoint),
            self.mesh(request, mesh),
            dtype,
            topology=topology,
            folder=self.folder,
        )


@pytest.fixture
def desk(tmp_path: Path, tiny_wan21: Path) -> Desk:
    return Desk(tmp_path / "plans", tiny_wan21)


def test_a_run_is_told_what_was_planned_of_it(desk: Desk) -> None:
    assert desk.ask() is None
    desk.keep(made_up_plan(ENCODE, DENOISE))
    assert desk.ask() == Forecast(
        method=METHOD,
        hbm_limit_bytes_per_chip=31 * GIB,
        stages=(
            StageForecast(StageName.TEXT_ENCODE, None, True, 4.5, 10 * GIB),
            StageForecast(StageName.DENOISE, "transformer", True, 4.5, 10 * GIB),
        ),
    )


def test_what_does_not_fit_comes_with_what_would(desk: Desk) -> None:
    desk.keep(made_up_plan(ENCODE, TOO_LARGE, shapes=SHAPES))
    forecast = desk.ask()
    assert forecast is not None
    assert forecast.stages[1] == StageForecast(StageName.DENOISE, "transformer", False, None, 40 * GIB)
    assert forecast.would_fit == ("32 x 48, 5 frames", "16 x 32, 9 frames")
    assert forecast.fitting_shapes == SHAPES


@pytest.mark.parametrize(
    "change", [{"prompt": "a dog"}, {"seed": 1}, {"num_inference_steps": 4}, {"guidance_scale": 7.5},
               {"flow_shift": 3.0}], ids=lambda change: next(iter(change))
)  # fmt: skip
def test_a_plan_holds_for_any_schedule_and_content(desk: Desk, change: dict[str, Any]) -> None:
    desk.keep(made_up_plan(DENOISE))
    forecast = desk.ask(replace(REQUEST, **change))
    assert forecast is not None
    assert forecast.stages[0].step_seconds == 4.5


def test_the_mean_step_of_a_plan_that_skips_some_holds_for_no_other_number_of_steps(desk: Desk) -> None:
    """25 steps of 4 s and as many of one."""
    kinds = [
        PlannedSteps(kind, 25, 1e15, 1e12, seconds, {}, {})
        for kind, seconds in (("full", 4.0), ("cached", 1.0))
    ]
    desk.keep(made_up_plan(replace(DENOISE, estimated_seconds=125.0, steps_by_kind=tuple(kinds))))
    for steps, expected in ((50, 2.5), (20, None)):
        forecast = desk.ask(replace(REQUEST, num_inference_steps=steps))
        assert forecast is not None
        assert (forecast.stages[0].step_seconds, forecast.stages[0].fits) == (expected, True)


def test_where_the_device_decides_what_is_skipped_no_step_is_foretold(desk: Desk) -> None:
    desk.keep(made_up_plan(ENCODE, replace(DENOISE, estimated_seconds=None, undecided_steps=49)))
    forecast = desk.ask()
    assert forecast is not None
    assert [(stage.step_seconds, stage.fits) for stage in forecast.stages] == [(4.5, True), (None, True)]


def test_what_skips_by_ratios_is_planned_anew_where_these_are_others(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "data"))
    spec = RunSpec("v6e-8", "wan2.1-t2v", replace(REQUEST, step_cache=MagCache(0.1)), desk.checkpoint)
    before = plan_key(spec, None)
    (tmp_path / "data" / MAG_RATIOS).mkdir(parents=True)
    (tmp_path / "data" / MAG_RATIOS / "wan2.1-t2v.json").write_text("{}")
    assert plan_key(spec, None) != before
    assert plan_key(replace(spec, checkpoint="org/a"), None) != plan_key(
        replace(spec, checkpoint="org/b"), None
    )


def test_a_lora_is_in_no_key(desk: Desk) -> None:
    spec = RunSpec("v6e-8", "wan2.1-t2v", REQUEST, desk.checkpoint)
    with_lora = replace(spec, request=replace(REQUEST, loras=(Lora("style.safetensors"),)))
    assert plan_key(with_lora, None) == plan_key(spec, None)


@pytest.mark.parametrize("change", [{"height": 48}, {"num_frames": 5}, {"guidance_scale": 1.0}])
def test_a_plan_holds_for_no_other_size_and_guidance(desk: Desk, change: dict[str, Any]) -> None:
    desk.keep(made_up_plan(DENOISE))
    assert desk.ask(replace(REQUEST, **change)) is None


def test_a_plan_holds_for_no_other_chips_mesh_and_dtype(desk: Desk) -> None:
    desk.keep(made_up_plan(DENOISE))
    assert desk.ask(topology="v5e-8") is None
    assert desk.ask(mesh=MeshShape(1, 8, 1)) is None
    assert desk.ask(dtype="float32") is None
    assert desk.ask(dtype="bfloat16") is not None
    assert desk.ask(topology=None) is None  # these are devices of a CPU, after all


def test_plans_of_some_stages_hold_for_these_and_the_newest_is_heard(desk: Desk) -> None:
    old = desk.keep(made_up_plan(ENCODE, replace(DENOISE, estimated_seconds=100.0)))
    new = desk.keep(made_up_plan(DENOISE), only=frozenset({StageName.DENOISE}))
    desk.keep(made_up_plan(DECODE), only=frozenset({StageName.VAE_DECODE}))
    for age, path in enumerate((new, old)):
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    forecast = desk.ask()
    assert forecast is not None
    assert {stage.name: stage.step_seconds for stage in forecast.stages} == {
        StageName.VAE_DECODE: 4.5,
        StageName.DENOISE: 4.5,
        StageName.TEXT_ENCODE: 4.5,
    }


def test_shapes_of_which_each_is_for_another_stage_are_not_offered(desk: Desk) -> None:
    desk.keep(made_up_plan(TOO_LARGE, shapes=SHAPES[:1]), only=frozenset({StageName.DENOISE}))
    unfit = replace(DECODE, fits=False, estimated_seconds=None)
    desk.keep(made_up_plan(unfit, shapes=SHAPES[1:]), only=frozenset({StageName.VAE_DECODE}))
    forecast = desk.ask()
    assert forecast is not None
    assert [stage.fits for stage in forecast.stages] == [False, False]
    assert forecast.would_fit == ()


@pytest.mark.parametrize(
    "broken",
    [
        "no json",
        "[]",
        '{"stages": [1]}',
        {"estimated_seconds": "soon"},
        {"steps": 0},
        {"name": "sing"},
        {"peak_hbm_bytes_per_chip": "much"},
    ],
)
def test_a_broken_plan_is_none(
    desk: Desk, broken: str | dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = desk.keep(made_up_plan(DENOISE))
    if isinstance(broken, dict):
        plan = json.loads(path.read_text())
        plan["stages"][0] |= broken
        broken = json.dumps(plan)
    path.write_text(broken)
    assert desk.ask() is None
    assert all("what was planned of this run cannot be read" in message for message in caplog.messages)


def test_a_checkpoint_that_is_the_published_one_has_its_plans(tmp_path: Path) -> None:
    published = MODELS["wan2.1-t2v"].write_published(tmp_path / "published")
    downloaded = tmp_path / "downloaded"
    shutil.copytree(published, downloaded)
    config = json.loads((downloaded / "transformer" / "config.json").read_text())
    (downloaded / "transformer" / "config.json").write_text(json.dumps({**config, "_diffusers_version": "1"}))
    (downloaded / "tokenizer").mkdir()
    (downloaded / "tokenizer" / "tokenizer.json").write_text("{}")
    changed = tmp_path / "changed"
    shutil.copytree(published, changed)
    (changed / "transformer" / "config.json").write_text(json.dumps({**config, "num_layers": 39}))
    spec = RunSpec("v6e-8", "wan2.1-t2v", Wan21Request("a cat"), published)
    plan = made_up_plan(DENOISE)
    keep_plan(tmp_path, plan_key(spec, None), plan)
    assert [*read_plans(tmp_path, replace(spec, configurations=downloaded))] == [plan]
    assert [*read_plans(tmp_path, replace(spec, configurations=changed))] == []


@dataclass
class PlayedDevice:
    """A device as jax names it."""

    device_kind: str


@pytest.mark.parametrize(
    ("kind", "count", "topology"),
    [
        ("TPU v6 lite", 8, "v6e-8"),
        ("TPU v6 lite", 3, None),
        ("TPU v5 lite", 1, "v5e-1"),
        ("TPU v5", 4, "v5p-8"),
        ("TPU v4", 4, "v4-8"),
        ("TPU7x", 2, "7x-2"),
        ("TPU7x", 1, None),
        ("TPU v3", 8, None),
        ("NVIDIA H200", 1, None),
        ("cpu", 8, None),
    ],
)
def test_devices_make_up_a_topology(kind: str, count: int, topology: str | None) -> None:
    assert topology_of([PlayedDevice(kind)] * count) == topology
