"""`plan` as a user types it: real compiles by the TPU's own compiler, on a machine without one."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import signal
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crystools_pipelines import planning
from crystools_pipelines.errors import CompileError
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning import aot
from crystools_pipelines.planning.aot import CompiledStage, TpuCompiler
from crystools_pipelines.planning.cache import keep_plan, plan_key
from crystools_pipelines.planning.compiler_process import ChildProcess, ProcessDiedError
from crystools_pipelines.planning.estimate import estimate
from crystools_pipelines.planning.hlo import parse
from crystools_pipelines.planning.plan import Plan, PlannedSteps, RunSpec, StagePlan, compare, from_json
from crystools_pipelines.planning.planner import Planner
from crystools_pipelines.planning.topologies import TOPOLOGIES
from crystools_pipelines.requests.presets import preset_named
from crystools_pipelines.requests.step_cache import FirstBlockCache
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_tpu.cli import main, plans
from crystools_tpu.telemetry import Shape, StageName
from tests.planning.conditions import compiled_condition
from tests.planning.plans import made_up_plan, made_up_stage

STAGE_KEYS = {
    "name",
    "peak_hbm_bytes_per_chip",
    "hbm_bytes_per_chip",
    "fits",
    "flops",
    "roofline_seconds",
    "estimated_seconds",
    "estimated_mfu",
    "compile_seconds",
    "collective_bytes",
}
GIB = 2**30
LIMIT = 7_000_000  # of bytes: the tiny model decodes 16 x 16 pixels in them, and not 32 x 32
PRODUCTS = "matrix products and convolutions"
USUAL = {"data": 1, "sequence": 1, "tensor": 4}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Plans are kept here, and not in the home."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "crystools-tpu" / "plans"


@pytest.fixture(scope="module")
def compiler() -> Iterator[TpuCompiler]:
    """One for all commands: it takes longer to start than to compile what is asked here."""
    with TpuCompiler() as compiler, pytest.MonkeyPatch.context() as patch:
        patch.setattr(aot, "TpuCompiler", lambda: nullcontext(compiler))
        yield compiler


@pytest.fixture(scope="module")
def command(tiny_flux2: Path) -> list[str]:
    """Plans the tiny model's denoising on four chips, as JSON."""
    command = ["plan", "flux.2", "--topology", "v6e-4", "--checkpoint", str(tiny_flux2), "--json"]
    return [*command, "--height", "64", "--width", "64", "--steps", "3", "--stages", "denoise"]


@pytest.fixture(scope="module")
def compared(compiler: TpuCompiler, command: list[str]) -> tuple[dict[str, Any], str]:
    """What a comparison of all meshes printed: the JSON, and the progress."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main([*command, "--compare-meshes"]) == 0
    return json.loads(out.getvalue()), err.getvalue()


def test_every_mesh_is_planned_and_the_fastest_comes_first(compared: tuple[dict[str, Any], str]) -> None:
    comparison, progress = compared
    assert {key: comparison[key] for key in ("model", "topology")} == {"model": "flux.2", "topology": "v6e-4"}
    meshes = comparison["meshes"]
    assert sorted((each["mesh"]["sequence"], each["mesh"]["tensor"]) for each in meshes) == [
        (1, 4),
        (2, 2),
        (4, 1),
    ]
    assert [each["is_default"] for each in meshes] == [each["mesh"] == USUAL for each in meshes]
    seconds = [each["estimated_seconds"] for each in meshes]
    assert seconds == sorted(seconds)
    for each in meshes:
        (stage,) = each["stages"]
        assert each["fits"]
        assert (stage["name"], stage["estimated_seconds"]) == ("denoise", each["estimated_seconds"])
    assert "mesh dp=1,sp=4,tp=1 (1 of 3)\n1 stages to compile: denoise transformer\n" in progress
    assert progress.count("denoise transformer: fits") == 3


@pytest.mark.usefixtures("compared")
def test_a_mesh_on_which_the_compiler_fails_is_left_out_of_the_comparison(
    compiler: TpuCompiler,
    command: list[str],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The others were planned before. The error comes as it does from the compiler's process, pickled."""
    fault = pickle.loads(pickle.dumps(CompileError("denoise", "INTERNAL: a check failed")))

    def failing(spec: RunSpec, index: int) -> None:
        raise fault

    monkeypatch.setattr(compiler, "compile_stage", failing)
    command = [*command, "--compare-meshes"]
    (kept,) = (path for path in cache.iterdir() if '"sequence": 4' in path.read_text())
    kept.unlink()
    assert main(command) == 0
    printed = capsys.readouterr()
    message = "denoise: the compiler failed; another mesh or size may do. It said: INTERNAL: a check failed\n"
    assert f"mesh dp=1,sp=4,tp=1 is left out: {message}" in printed.err
    assert sorted(each["mesh"]["sequence"] for each in json.loads(printed.out)["meshes"]) == [1, 2]
    assert main([*command, "--no-cache"]) == 2
    assert capsys.readouterr().err.endswith(message)


@pytest.mark.usefixtures("compared")
def test_a_comparison_goes_on_with_a_new_compiler_after_one_that_is_gone(
    compiler: TpuCompiler,
    command: list[str],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started, compile_stage = [], compiler.compile_stage

    def start() -> nullcontext[TpuCompiler]:
        started.append(compiler)
        return nullcontext(compiler)

    def gone_at_first(spec: RunSpec, index: int) -> CompiledStage:
        if len(started) == 1:
            raise ProcessDiedError("the child ended with -6; it said: check failed")
        return compile_stage(spec, index)

    monkeypatch.setattr(aot, "TpuCompiler", start)
    monkeypatch.setattr(compiler, "compile_stage", gone_at_first)
    for path in cache.iterdir():
        path.unlink()
    assert main([*command, "--compare-meshes"]) == 0
    printed = capsys.readouterr()
    assert "mesh dp=1,sp=4,tp=1 is left out: the compiler is gone" in printed.err
    assert sorted(each["mesh"]["sequence"] for each in json.loads(printed.out)["meshes"]) == [1, 2]
    assert len(started) == 2


@pytest.mark.usefixtures("compared")
def test_a_plan_says_all_of_a_stage_and_what_was_planned_before_is_there_at_once(
    command: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = len([*cache.iterdir()])
    assert main([*command, "--mesh", "tp=4"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "planned before; --no-cache compiles anew\n"
    assert len([*cache.iterdir()]) == kept
    plan = json.loads(printed.out)
    assert set(plan) == {
        "model",
        "topology",
        "mesh",
        "shape",
        "fits",
        "stages",
        "estimated_seconds",
        "estimated_seconds_range",
    }
    assert plan["estimated_seconds"] == plan["stages"][0]["estimated_seconds"]
    assert plan["shape"] == {"height": 64, "width": 64, "num_frames": None}
    assert (plan["model"], plan["topology"], plan["fits"]) == ("flux.2", "v6e-4", True)
    assert plan["mesh"] == USUAL
    (denoise,) = plan["stages"]
    assert (denoise["name"], denoise["component"], denoise["steps"]) == ("denoise", "transformer", 3)
    assert set(denoise) >= STAGE_KEYS
    assert 0 < denoise["peak_hbm_bytes_per_chip"] < 0.1 * GIB
    assert denoise["hbm_bytes_per_chip"] == int(31.24 * GIB)
    assert 0 < denoise["roofline_seconds"] < denoise["estimated_seconds"] < 1
    assert denoise["estimated_mfu"] == pytest.approx(
        denoise["flops"] / (denoise["estimated_seconds"] * 4 * 918e12)
    )
    assert sum(denoise["estimate"].values()) == pytest.approx(denoise["estimated_seconds"])
    assert any(name.startswith("kernel ") and spent > 0 for name, spent in denoise["estimate"].items())
    assert denoise["notes"] == []
    assert denoise["collective_bytes"]["all-reduce"] > 0


@pytest.mark.usefixtures("compiler")
def test_what_does_not_fit_is_said_with_what_it_wants(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "flux.2", "--topology", "v5e-1", "--height", "64", "--width", "64", "--json"]
    assert main([*command, "--stages", "text_encode"]) == 1
    printed = capsys.readouterr()
    assert "does not fit v5e-1 (text_encode); try more chips" in printed.err
    plan = json.loads(printed.out)
    assert (plan["fits"], plan["largest_that_fits"]) == (False, [])
    (stage,) = plan["stages"]
    assert (stage["fits"], stage["hbm_bytes_per_chip"]) == (False, int(15.75 * GIB))
    assert stage["peak_hbm_bytes_per_chip"] > 30 * GIB  # all but the last layers of 24 billion parameters
    assert (stage["estimated_seconds"], stage["estimated_mfu"], stage["collective_bytes"]) == (None,) * 3


class Silent:
    """Keeps the shapes that were tried."""

    def __init__(self) -> None:
        self.tried: list[Shape] = []

    def outlined(self, labels: list[str]) -> None: ...

    def compiling(self, index: int) -> None: ...

    def finished(self, index: int, stage: StagePlan) -> None: ...

    def searching(self, shape: Shape) -> None:
        self.tried.append(shape)


def test_the_largest_size_that_fits_is_found_and_compiled(compiler: TpuCompiler, tiny_flux2: Path) -> None:
    progress = Silent()
    spec = RunSpec("v6e-1", "flux.2", Flux2Request("", height=32, width=32), tiny_flux2)
    plan = Planner(compiler, spec, progress, frozenset({StageName.VAE_DECODE}), LIMIT).plan()
    assert not plan.fits
    (stage,) = plan.stages
    assert stage.peak_hbm_bytes_per_chip is not None
    assert stage.peak_hbm_bytes_per_chip > LIMIT
    assert plan.largest_that_fits == (Shape(16, 16, None),)
    assert progress.tried == [Shape(16, 16, None)]


@pytest.mark.usefixtures("compiler")
def test_block_sizes_of_the_attention_are_ranked_by_their_schedules(
    tiny_wan21: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The largest attention of so small a video: 3 x 3 x 5 tokens, with padding 48, to the prompt's 512."""
    command = ["plan", "wan2.1-t2v", "--topology", "v6e-1", "--checkpoint", str(tiny_wan21), "--json"]
    command += ["--height", "48", "--width", "80", "--frames", "9", "--steps", "1"]
    assert main([*command, "--tune-attention"]) == 0
    printed = capsys.readouterr()
    tuning = json.loads(printed.out)
    assert set(tuning) == {"model", "topology", "mesh", "shape", "blocks"}
    assert tuning["mesh"] == {"data": 1, "sequence": 1, "tensor": 1}
    assert tuning["shape"] == {"batch": 2, "queries": 48, "keys": 512, "lanes": 128, "head_dim": 16}
    assert sorted(tuple(each["sizes"].values()) for each in tuning["blocks"]) == [
        (1024, 2048, 256),
        (1024, 2048, 512),
    ]
    seconds = [each["estimated_seconds"] for each in tuning["blocks"]]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] < 0.001
    assert "2 of 2: 1024 x 2048 x 512: " in printed.err


def test_a_plan_survives_its_own_json() -> None:
    for largest in ((Shape(512, 512, None),), (), None):
        for shape in (Shape(1024, 1024, None), None):
            plan = Plan("flux.2", "v6e-8", MeshShape(1, 2, 4), False, (), largest, shape)
            assert from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_mesh_that_does_not_fit_comes_last() -> None:
    def planned(mesh: MeshShape, seconds: float | None) -> Plan:
        stage = made_up_stage("denoise", fits=seconds is not None)
        return made_up_plan(dataclasses.replace(stage, estimated_seconds=seconds), mesh=mesh)

    plans = [planned(MeshShape(sequence=8), None), planned(MeshShape(tensor=8), 3), planned(MeshShape(2), 2)]
    ranked = compare(MeshShape(tensor=8), plans)
    assert [plan.estimated_seconds for plan in ranked.plans] == [2, 3, None]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It arrives while the compiler is at work."""
    monkeypatch.setattr(aot, "TpuCompiler", TpuCompiler)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    others = set(multiprocessing.active_children())
    call = ChildProcess.call

    def interrupted(self: ChildProcess, *args: Any) -> Any:
        assert len({*multiprocessing.active_children()} - others) == 1
        assert len([*tmp_path.iterdir()]) == 3  # configurations, what the compiler says, what it leaves
        os.kill(os.getpid(), number)
        return call(self, *args)

    monkeypatch.setattr(ChildProcess, "call", interrupted)
    handler = signal.getsignal(number)
    assert main(["plan", "flux.2", "--topology", "v6e-8"]) == 128 + number
    assert "cancelled" in capsys.readouterr().err
    assert set(multiprocessing.active_children()) <= others
    assert [*tmp_path.iterdir()] == []
    assert signal.getsignal(number) == handler


def test_a_compiler_that_is_gone_is_one_line(
    compiler: TpuCompiler,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def gone(spec: RunSpec) -> None:
        raise ProcessDiedError("the child ended with -9; it said: ")

    monkeypatch.setattr(compiler, "outline", gone)
    assert main([*command, "--no-cache"]) == 2
    assert "the compiler is gone, mostly for want of memory here: the child ended" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--topology", "v9-8"], "--topology: 'v9-8' is not known; give one of v4-8, "),
        (["--topology", "v6e-8", "--frames", "5"], "--frames: flux.2 has no such setting; leave it out"),
        (["--topology", "v6e-8", "--height", "65"], "--height: 65 is not a positive multiple of 16"),
        (["--topology", "v6e-8", "--stages", "sing"], "--stages: 'sing' is not a valid StageName; give some"),
        (["--topology", "v6e-8", "--checkpoint", "/none"], "--checkpoint: /none is no folder"),
        (
            ["--topology", "v6e-8", "--mesh", "tp=8", "--compare-meshes"],
            "--mesh: --compare-meshes plans all of",
        ),
        (["--topology", "v6e-8", "--mesh", "xp=8"], "--mesh: 'xp=8' is none; give some of dp, sp and tp, "),
        (["--topology", "v6e-8", "--skips", "45"], "--skips: 45 is no share; give one from 0 to 1"),
        (
            ["--topology", "v6e-8", "--skips", "0.4"],
            "--skips: nothing is skipped without a step cache",
        ),
        (
            ["--topology", "v6e-8", "--skips", "0.4", "--tune-attention"],
            "--skips: --tune-attention times one kernel and no run; leave it out",
        ),
        (
            ["--topology", "v6e-8", "--skips", "0.4", "--step-cache", "taylorseer:3"],
            "--skips: what taylorseer:3 skips is known before; leave it out, or give --step-cache",
        ),
        (
            ["--topology", "v6e-8", "--lora", "high:./style.safetensors=0.8"],
            "--lora: high:./style.safetensors=0.8 is for one of two experts, and this checkpoint has one;",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "flux.2", *options]) == 2
    assert reason in capsys.readouterr().err


def kept(cache: Path, request: Wan21Request, plan: Plan) -> None:
    """Keeps the plan as that of the published model with this request."""
    with tempfile.TemporaryDirectory() as folder:
        configurations = MODELS["wan2.1-t2v"].write_published(Path(folder))
        keep_plan(cache, plan_key(RunSpec("v6e-8", "wan2.1-t2v", request, configurations), None), plan)


def test_a_preset_is_planned_and_its_lora_changes_nothing(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No LoRA is read, and with it the plan is the same: that without was planned before."""
    settings = preset_named("wan2.1-t2v", "lightx2v-4step").beside({"loras": ()})
    kept(cache, Wan21Request.of_any_content(**settings), made_up_plan(made_up_stage("denoise", steps=4)))
    command = ["plan", "wan2.1-t2v", "--topology", "v6e-8", "--preset", "lightx2v-4step"]
    for loras in ([], ["--lora", "./nowhere.safetensors", "--lora", "low.safetensors=0.5"]):
        assert main([*command, *loras]) == 0
        printed = capsys.readouterr()
        said = "LoRAs change" if loras else "a LoRA changes"
        assert printed.err == (
            f"--lora: {said} nothing here, merged into the weights before the run\n"
            "planned before; --no-cache compiles anew\n"
        )
        assert "4 steps of euler\non v6e-8" in printed.out
        assert "mesh dp=1,sp=1,tp=8 (one guidance branch)" in printed.out
        assert "from the prompt to the frames: 18.000 s" in printed.out


def test_a_run_is_estimated_for_a_share_of_skips(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten steps of 3 s, or of half a second; the first is never skipped."""
    kinds = [
        PlannedSteps(kind, count, 1e15, 1e12, seconds, {}, {})
        for kind, count, seconds in (("full", 1, 3.0), ("cached", 0, 0.5))
    ]
    stage = dataclasses.replace(
        made_up_stage("denoise", "transformer", steps=10),
        estimated_seconds=None,
        steps_by_kind=tuple(kinds),
        undecided_steps=9,
    )
    request = Wan21Request("", num_inference_steps=10, step_cache=FirstBlockCache(0.1))
    kept(cache, request, made_up_plan(stage))
    command = ["plan", "wan2.1-t2v", "--topology", "v6e-8", "--steps", "10", "--json"]
    command += ["--step-cache", "first-block:0.1"]
    answers = []
    for skips in ([], ["--skips", "0.4"]):
        assert main([*command, *skips]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert (answers[0]["estimated_seconds"], answers[0]["estimated_seconds_range"]) == (None, [7.5, 30.0])
    assert (answers[1]["estimated_seconds"], answers[1]["estimated_seconds_range"]) == (20.0, [20.0, 20.0])
    counts = {steps["kind"]: steps["count"] for steps in answers[1]["stages"][0]["steps_by_kind"]}
    assert counts == {"full": 6, "cached": 4}


def test_a_condition_of_the_compilers_is_estimated_by_its_sides(compiler: TpuCompiler) -> None:
    """A product for the first block, and with six others."""
    module = parse(compiler._child.call(compiled_condition))
    full, skipped = (
        estimate(module, TOPOLOGIES["v6e-4"].chip, 4, {}, skipped=each).seconds[PRODUCTS]
        for each in (False, True)
    )
    assert 0 < skipped < full


def test_without_libtpu_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["plan", "flux.2", "--topology", "v6e-8"]) == 2
    assert "pip install 'crystools-tpu[pipelines,tpu]'" in capsys.readouterr().err


def test_the_topologies_are_those_of_chips_that_can_be_planned_for() -> None:
    for name, topology in TOPOLOGIES.items():
        generation, count = name.split("-")
        assert topology.chip.name == generation
        assert topology.chips == int(count) // (1 if generation in ("v5e", "v6e") else 2)
        assert topology.chip.usable_hbm_bytes
        assert topology.chip.clock_hz
        assert topology.chip.ici_link_bytes_per_second


def test_that_plans_cannot_be_kept_is_said_once_and_stops_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def keep_plan(*_: object) -> None:
        raise OSError(30, "Read-only file system", "/cache/plans")

    made: Any = SimpleNamespace(largest_that_fits=())
    monkeypatch.setattr(plans, "keep_plan", keep_plan)
    monkeypatch.setattr(plans, "plan_key", lambda spec, only: "key")
    monkeypatch.setattr(planning.planner, "Planner", lambda *_: SimpleNamespace(plan=lambda search: made))
    several = plans.Plans(None, anew=True)
    several.__dict__["_compiler"] = None
    spec: Any = None
    assert [several.plan(spec) for _ in range(3)] == [made] * 3
    said = "crystools-tpu: the plan is not kept: [Errno 30] Read-only file system: '/cache/plans'\n"
    assert capsys.readouterr().err == said
