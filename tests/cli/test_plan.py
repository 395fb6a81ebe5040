"""`plan` as a user types it: real compiles by the TPU's own compiler, on a machine without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.planning.plan import Plan, Shape, StagePlan, from_json
from crystools_pipelines.planning.planner import Planner
from crystools_pipelines.runtime.aot import TpuCompiler
from crystools_pipelines.runtime.topologies import TOPOLOGIES
from crystools_tpu.cli import main
from crystools_tpu.telemetry import StageName

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
LIMIT = 6_200_000  # of bytes: 64 x 64 pixels of the tiny model fit, 128 x 128 do not


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Plans are kept here, and not in the home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "crystools-tpu" / "plans"


def test_a_run_is_planned_and_the_same_is_not_planned_twice(
    tiny_flux2: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", "flux.2", "--topology", "v6e-4", "--checkpoint", str(tiny_flux2), "--json"]
    command += ["--height", "64", "--width", "64", "--steps", "3", "--stages", "denoise"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "denoise transformer: fits" in printed.err
    plan = json.loads(printed.out)
    assert set(plan) == {"model", "topology", "mesh", "fits", "stages"}
    assert (plan["model"], plan["topology"], plan["fits"]) == ("flux.2", "v6e-4", True)
    assert plan["mesh"]["data"] * plan["mesh"]["sequence"] * plan["mesh"]["tensor"] == 4
    assert [(stage["name"], stage["component"], stage["steps"]) for stage in plan["stages"]] == [
        ("denoise", "transformer", 3),
    ]
    for stage in plan["stages"]:
        assert set(stage) >= STAGE_KEYS
        assert 0 < stage["peak_hbm_bytes_per_chip"] < 0.1 * GIB
        assert stage["hbm_bytes_per_chip"] == int(31.24 * GIB)
        assert 0 < stage["roofline_seconds"] < stage["estimated_seconds"] < 1
        assert stage["estimated_mfu"] == pytest.approx(
            stage["flops"] / (stage["estimated_seconds"] * 4 * 918e12)
        )
        assert sum(stage["estimate"].values()) == pytest.approx(stage["estimated_seconds"])
    (denoise,) = plan["stages"]
    assert denoise["estimate"]["kernel splash_mha_fwd_segmented_no_residuals"] > 0
    assert denoise["notes"] == []
    assert denoise["collective_bytes"]["all-reduce"] > 0

    assert main(command) == 0
    again = capsys.readouterr()
    assert again.err == "planned before; --no-cache compiles anew\n"
    assert json.loads(again.out) == plan
    assert len([*cache.iterdir()]) == 1


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


def test_the_largest_size_that_fits_is_found_and_compiled(tiny_flux2: Path) -> None:
    progress = Silent()
    request = Flux2Request("", height=128, width=128, num_inference_steps=2)
    with TpuCompiler() as compiler:
        planner = Planner(
            compiler, "v6e-1", "flux.2", tiny_flux2, progress, frozenset({StageName.DENOISE}), LIMIT
        )
        plan = planner.plan(request)
    assert not plan.fits
    (stage,) = plan.stages
    assert stage.peak_hbm_bytes_per_chip is not None
    assert stage.peak_hbm_bytes_per_chip > LIMIT
    (largest,) = plan.largest_that_fits
    assert 16 <= largest.height == largest.width < 128
    assert largest in progress.tried
    assert 2 <= len(progress.tried) <= 6


def test_a_plan_survives_its_own_json() -> None:
    plan = Plan("flux.2", "v6e-8", {"data": 1}, False, (), (Shape(512, 512, None),))
    assert from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--topology", "v9-8"], "--topology: 'v9-8' is not known; give one of v4-8, "),
        (["--topology", "v6e-8", "--frames", "5"], "--frames: flux.2 has no such setting; leave it out"),
        (["--topology", "v6e-8", "--height", "65"], "--height: 65 is not a positive multiple of 16"),
        (["--topology", "v6e-8", "--stages", "sing"], "--stages: 'sing' is not a valid StageName; give some"),
        (["--topology", "v6e-8", "--checkpoint", "/none"], "--checkpoint: /none is no folder"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "flux.2", *options]) == 2
    assert reason in capsys.readouterr().err


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
