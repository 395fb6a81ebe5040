"""`generate` and `tiny-checkpoint` as a user types them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import PIL.Image
import pytest

from crystools_pipelines import tiny
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning import forecasting
from crystools_pipelines.planning.cache import keep_plan, plan_key, plans_folder
from crystools_pipelines.planning.plan import RunSpec
from crystools_pipelines.requests.lora import Lora
from crystools_pipelines.tiny import on_demand
from crystools_tpu import telemetry
from crystools_tpu.cli import demo, generate, main, plans
from crystools_tpu.cli.main import build_parser
from crystools_tpu.cli.requests import request_of
from crystools_tpu.open_pages import announced
from crystools_tpu.telemetry import Shape
from docs.make_schemas import wire_schema
from tests.planning.plans import GIB, made_up_plan, made_up_stage
from tests.rigs.workflow_run import WORKFLOW, with_nan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "wan"
    assert main(["tiny-checkpoint", "wan2.1-t2v", str(folder)]) == 0
    return folder


def arguments(checkpoint: Path, *more: str) -> list[str]:
    small = ["--height", "32", "--width", "48", "--frames", "5", "--steps", "3", "--devices", "1"]
    return ["generate", "wan2.1-t2v", "--checkpoint", str(checkpoint), "--prompt", "a boat", *small, *more]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands keep what they compiled."""
    return tmp_path_factory.mktemp("cache")


def environment(cache: Path) -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "pipelines", "exporters"))
    quick = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    return {**os.environ, "PYTHONPATH": path, **quick}


def command(cache: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """The command in a process of its own, as from a shell without a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "crystools_tpu", *arguments],
        env=environment(cache),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_writes_the_frames_a_valid_report_and_the_metrics_and_prints_the_report(
    checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    frames, report, metrics = tmp_path / "frames.npy", tmp_path / "report.json", tmp_path / "run.prom"
    nobody = "http://127.0.0.1:1"
    more = ["--out", str(frames), "--report", str(report), "--json"]
    profile = ["--profile-steps", "2", "--profile-dir", str(tmp_path / "profiles")]
    more += ["--textfile", str(metrics), "--pushgateway", nobody]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        page = f"http://127.0.0.1:{listener.getsockname()[1]}/crystools-tpu/"
        with (
            announced(f"{page}?token=secret"),
            command(cache, arguments(checkpoint, *more, *profile)) as process,
        ):
            out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert err.splitlines()[0] == f"Watch it at {page} (with the token that it was started with)"
    (perfetto_trace,) = (tmp_path / "profiles").rglob("perfetto_trace.json.gz")
    assert f"profile of 2 steps: {perfetto_trace.parent}" in err.splitlines()
    assert json.loads(out) == json.loads(report.read_text())
    jsonschema.validate(json.loads(out), wire_schema())
    assert np.load(frames).shape == (5, 32, 48, 3)
    told = [line for line in err.splitlines() if line.endswith("...")]
    assert told == [
        "load text_encoder ...",
        "text_encode ...",
        "load transformer ...",
        "denoise transformer ...",
        "load vae ...",
        "vae_decode ...",
        "save ...",
    ]
    assert "Warning" not in err
    (warning,) = (line for line in err.splitlines() if line.startswith("WARNING"))
    assert warning.startswith(f"WARNING: the metrics could not be pushed to {nobody}: ")
    ended = f'pipeline="wan2.1-t2v",status="succeeded",textfile="{metrics.stem}"'
    assert f"\ncrystools_tpu_runs_total{{{ended}}} 1.0\n" in metrics.read_text()
    assert json.loads(out)["content_params"] == ["prompt", "negative_prompt", "seed"]
    report_params = json.loads(out)["params"]
    assert (report_params["num_frames"], report_params["num_inference_steps"]) == (5, 3)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_a_report_that_says_cancelled_and_nothing_else(
    checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    more = ["--steps", "1000", "--out", str(out / "video.mp4"), "--report", str(out / "report.json")]
    with command(cache, arguments(checkpoint, *more)) as process:
        assert process.stdout is not None
        while "step 100/1000" not in (line := process.stdout.readline()):
            assert line, "it ended before its hundredth step"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.strip() == "crystools-tpu: cancelled"
    assert [path.name for path in out.iterdir()] == ["report.json"]
    report = json.loads((out / "report.json").read_text())
    jsonschema.validate(report, wire_schema())
    assert (report["status"], report["error"]) == ("cancelled", "KeyboardInterrupt")
    assert report["stages"][-1]["status"] == "cancelled"
    assert len(report["stages"][-1]["steps"]) >= 99


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--frames", "80"], "--frames: 80 is not of the form 4n+1; 77 or 81 would do"),
        (["--height", "33"], "--height: 33 is not a positive multiple of 16; 32 would do"),
        (["--profile-steps", "51"], "--profile-steps: steps must be a whole number from 1 to 50"),
        (["--profile-dir", "here"], "--profile-dir: says where, but --profile-steps says how many steps"),
        (["--scheduler", "ddim"], "--scheduler: 'ddim' is not known; give unipc or euler or dpm++"),
        (["--sigmas", "1,a"], "--sigmas: '1,a' is no list of numbers; give numbers, such as 1,0.75,0.5,0.25"),
        (["--sigmas", "1,nan"], "--sigmas: nan is no share of noise; give numbers above 0, at most 1"),
        (["--sigmas", "0.5,0.5"], "--sigmas: 0.5 follows 0.5; give them falling"),
        (["--sigmas", "1,0"], "--sigmas: 0.0 is no share of noise; give numbers above 0, at most 1"),
        (["--sigmas", "1,0.5", "--steps", "50"], "--steps: 50 disagrees with the 2 sigmas or timesteps; le"),
        (["--sigmas", "1,0.5", "--steps", "3"], "--steps: 3 disagrees with the 2 sigmas or timesteps; leave"),
        (["--timesteps", "1,0.5"], "--timesteps: '1,0.5' is no list of numbers; give whole numbers, such as"),
        (["--timesteps", "1001"], "--timesteps: 1001 is out of range; give 1 to 1000"),
        (
            ["--timesteps", "9,1", "--steps", "2"],
            "--timesteps: only euler takes them; step with euler, or gi",
        ),
        (["--preset", "fast"], "--preset: 'fast' is no preset of wan2.1-t2v; give lightx2v-4step"),
        (["--steps", "0"], "--steps: 0 is too few; give 1 or more"),
        (["--flow-shift", "0"], "--flow-shift: 0.0 is not a positive number"),
        (["--out", "nowhere/video.mp4"], "nowhere/video.mp4: its folder does not exist; create it first"),
        (["--devices", "99"], "--devices: 99 is out of range; give 1 to 8, or 0 for all"),
        (["--mesh", "tensor=2"], "--mesh: 'tensor=2' is none; give some of dp, sp and tp, such as dp=2,tp=4"),
        (["--mesh", "tp=2"], "--mesh: dp=1,sp=1,tp=2 cannot be had of 1 devices with this model; give dp=1,"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_names_the_option_and_the_remedy(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(arguments(checkpoint, "--out", str(tmp_path / "v.mp4"), *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


NO_PRESET = "--preset: 'lightx2v-4step' is no preset of flux.2; it has none; leave it out"


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("flux.2", ["--frames", "5"], "--frames: flux.2 has no such setting; leave it out"),
        ("wan2.1-t2v", ["--dynamic-cfg"], "--dynamic-cfg: wan2.1-t2v has no such setting; leave it out"),
        ("cogvideox-t2v", ["--sigmas", "1"], "--sigmas: cogvideox-t2v has no such setting; leave it out"),
        ("flux.2", ["--preset", "lightx2v-4step"], NO_PRESET),
        ("flux.2", ["--fps", "8"], "--fps: flux.2 makes an image; leave it out"),
        ("wan2.1-t2v", ["--shift", "3"], "--shift: wan2.1-t2v has no such setting; leave it out"),
        ("cogvideox-t2v", ["--image", "a.png"], "--image: cogvideox-t2v has no such setting; leave it out"),
        ("wan2.2-i2v", [], "--image: wan2.2-i2v cannot do without; give one"),
        ("wan2.2-i2v", ["--fps", "8", "--seed", "1"], "--image: wan2.2-i2v cannot do without; give one"),
        ("flux.2", ["--seed", str(2**64)], f"--seed: {2**64} is out of range; give 0 to 2**64 - 1"),
    ],
)
def test_an_option_that_the_model_does_not_have_or_needs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, more: list[str], message: str
) -> None:
    out = ["--out", str(tmp_path / "x.npy")]
    assert main(["generate", model, "--checkpoint", str(tmp_path), "--prompt", "a boat", *out, *more]) == 2
    assert capsys.readouterr().err.strip() == f"crystools-tpu: {message}"


def test_a_picture_that_is_none_is_refused_before_anything_is_loaded(
    tiny_wan22_i2v: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    options = ["--prompt", "a boat", "--image", str(tmp_path / "notes.png"), "--out", str(tmp_path / "x.npy")]
    before = telemetry.history.reports()
    assert main(["generate", "wan2.2-i2v", "--checkpoint", str(tiny_wan22_i2v), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"crystools-tpu: --image: cannot read {tmp_path / 'notes.png'} (cannot identify")
    assert telemetry.history.reports() == before


def test_a_lora_that_is_none_is_refused_before_anything_is_loaded(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, before = tmp_path / "fox.safetensors", telemetry.history.reports()
    asked = arguments(checkpoint, "--lora", f"{lora}=0.8", "--out", str(tmp_path / "x.npy"))
    assert main(asked) == 2
    assert main([*asked, "--lora", "fox=strong"]) == 2
    assert main([*asked, "--report", str(lora)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"crystools-tpu: --lora: {lora} is not there; the folder {tmp_path} has no .safetensors file; "
        "give a file, or a hub id",
        "crystools-tpu: --lora: 'fox=strong' ends in no number; give FILE=SCALE, such as =0.8",
        f"crystools-tpu: --report: {lora} is --lora, too; give another name",
    ]
    assert telemetry.history.reports() == before


def option(command: str, name: str) -> argparse.Action:
    """An option of a command."""
    (commands,) = (each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction))
    actions: dict[str, argparse.Action] = commands.choices[command]._option_string_actions
    return actions[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("--steps", "denoising steps"),
        ("--image", "what the video starts with (wan2.2-i2v)"),
        (
            "--frames",
            "of the form 8n or 8n+1 (cogvideox-t2v); of the form 4n+1 (wan2.1-t2v, wan2.2-t2v, wan2.2-i2v)",
        ),
        (
            "--guidance-scale",
            "1 and below: unguided, faster (cogvideox-t2v, wan2.1-t2v, wan2.2-t2v, wan2.2-i2v); "
            "always guided (flux.2)",
        ),
    ],
)
def test_the_help_says_which_models_have_an_option_and_where_it_means_another_thing(
    name: str, said: str
) -> None:
    assert option("generate", name).help == said


def test_an_option_takes_what_the_field_takes() -> None:
    taken = {name: option("generate", name).type for name in ("--height", "--shift", "--image")}
    assert taken == {"--height": int, "--shift": float, "--image": str}
    assert [option("generate", name).required for name in ("--prompt", "--image")] == [True, False]


def test_a_plan_is_asked_for_all_but_the_content() -> None:
    asked = ["--frames", "--steps", "--guidance-scale-2", "--boundary-ratio", "--dynamic-cfg", "--flow-shift"]
    assert [option("plan", name).dest for name in asked] == [
        "num_frames",
        "num_inference_steps",
        "guidance_scale_2",
        "boundary_ratio",
        "use_dynamic_cfg",
        "flow_shift",
    ]
    for name in ("--prompt", "--negative-prompt", "--image", "--seed"):
        with pytest.raises(KeyError):
            option("plan", name)


@pytest.mark.parametrize(
    ("captured", "said"),
    [(3, "profile of 3 steps: trace"), (1, "profile of 1 step, for the stage had no more of the 3: trace")],
)
def test_a_profile_of_fewer_steps_than_were_asked_for_says_so(captured: int, said: str) -> None:
    written = telemetry.ProfileCapture(telemetry.CaptureStatus.WRITTEN, 3, captured, "run", "trace", None)
    assert generate.profile_text(written) == said


def test_a_preset_sets_what_is_not_given() -> None:
    small = ["--checkpoint", "folder", "--prompt", "a boat", "--out", "video.mp4"]
    given = ["--preset", "lightx2v-4step", "--flow-shift", "3", "--lora", "mine.safetensors=0.5"]
    request = request_of(build_parser().parse_args(["generate", "wan2.1-t2v", *small, *given]))
    assert (request.num_inference_steps, request.sigmas) == (4, (1.0, 0.75, 0.5, 0.25))
    assert (request.flow_shift, [*map(str, request.loras)]) == (3.0, ["mine.safetensors=0.5"])
    assert "lightx2v-4step (wan2.1-t2v, wan2.2-t2v, wan2.2-i2v)" in (option("plan", "--preset").help or "")


@pytest.mark.parametrize(("more", "dynamic"), [([], False), (["--dynamic-cfg"], True)])
def test_cogvideox_is_asked_for_dynamic_guidance(more: list[str], dynamic: bool) -> None:
    small = ["--checkpoint", "folder", "--prompt", "a boat", "--out", "video.mp4"]
    request = request_of(build_parser().parse_args(["generate", "cogvideox-t2v", *small, *more]))
    assert request.use_dynamic_cfg is dynamic


@pytest.fixture
def one_v6e(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where plans are looked up, devices of this CPU are taken for v6e chips. None of the home's is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (plans, forecasting):
        monkeypatch.setattr(module, "topology_of", lambda devices: f"v6e-{len(devices)}")


def keep_made_up_plan(command: list[str], checkpoint: Path) -> None:
    """A plan made up by hand, by which the denoising of this command does not fit one v6e."""
    arguments = build_parser().parse_args(command)
    denoise = made_up_stage("denoise", "transformer", fits=False, peak_gib=40)
    about = {"model": arguments.model, "topology": "v6e-1", "mesh": MeshShape()}
    plan = made_up_plan(denoise, made_up_stage("vae_decode", steps=1), **about, shapes=(Shape(16, 32, None),))
    spec = RunSpec("v6e-1", arguments.model, request_of(arguments), checkpoint)
    keep_plan(plans_folder(), plan_key(spec, None), plan)


@pytest.mark.usefixtures("compile_cache", "one_v6e")
@pytest.mark.parametrize("model", ["wan2.2-i2v", "flux.2"])  # a picture goes in, a picture comes out
def test_a_model_makes_a_tiny_one_of_itself_and_is_told_what_was_planned_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, model: str
) -> None:
    """From `tiny-checkpoint` to the finished file, with nothing but what the model needs."""
    folder, out = tmp_path / "checkpoint", tmp_path / "out.npy"
    assert main(["tiny-checkpoint", model, str(folder)]) == 0
    wanted = {field.name for field in dataclasses.fields(MODELS[model].request_class())}
    more = ["--height", "32", "--width", "48", "--steps", "2", "--devices", "1", "--out", str(out), "--json"]
    more += ["--frames", "9"] if "num_frames" in wanted else []
    if "image" in wanted:
        PIL.Image.new("RGB", (48, 32), "teal").save(tmp_path / "start.png")
        more += ["--image", str(tmp_path / "start.png")]
    capsys.readouterr()
    command = ["generate", model, "--checkpoint", str(folder), "--prompt", "a boat", "--plan", *more]
    keep_made_up_plan(command, folder)
    assert main(command) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    jsonschema.validate(report, wire_schema())
    assert (report["pipeline"], report["status"]) == (model, "succeeded")
    assert np.load(out).shape == (9 if "num_frames" in wanted else 1, 32, 48, 3)
    assert "planned before; " in printed.err
    warning = (
        f"{model}: does not fit by the TPU compiler's own estimate: denoise transformer wants 40.00 GiB of a "
        "chip's 31.00 GiB; 16 x 32 would fit"
    )
    assert caplog.messages.count(warning) == 1
    predicted = {
        stage["name"]: (stage["predicted_step_seconds"], stage["predicted_hbm_peak_bytes"])
        for stage in report["stages"]
        if stage["component"] in ("transformer", None)
    }
    assert predicted["denoise"] == (None, 40 * GIB)
    assert predicted["vae_decode"] == (4.5, 10 * GIB)
    assert predicted["text_encode"] == (None, None)


@pytest.mark.parametrize("json_asked", [False, True])
def test_a_result_with_nan_is_kept_and_printed_and_ends_with_1_and_one_line(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    json_asked: bool,
) -> None:
    out, report = tmp_path / "frames.npy", with_nan(WORKFLOW)
    monkeypatch.setattr(generate, "generate_watched", lambda *_, **__: report)
    assert main(arguments(checkpoint, "--out", str(out), *(["--json"] if json_asked else []))) == 1
    printed, error = capsys.readouterr()
    assert error == f"crystools-tpu: what was generated is of no use: NaN from step 12; {out} is kept\n"
    if json_asked:
        assert json.loads(printed) == telemetry.to_wire(report)
    else:
        assert "succeeded, NaN from step 12" in printed
        assert "\nOf no use: NaN from step 12 on; the first run of its kind in the history" in printed
        assert printed.endswith(f"{out}\n")


def test_a_demo_that_made_nan_ends_with_1_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "generate_watched", lambda *_, **__: with_nan(WORKFLOW))
    monkeypatch.setattr(tiny, "write_tiny_checkpoint", lambda model, folder: folder)
    monkeypatch.setattr(demo, "panel", lambda **_: contextlib.nullcontext(SimpleNamespace(url="here")))
    assert main(["demo", "--once", "--out", str(tmp_path)]) == 1
    printed, error = capsys.readouterr()
    assert error.startswith("crystools-tpu: what was generated is of no use: NaN from step 12; ")
    assert f"{tmp_path / 'video.mp4'}\n" in printed


def test_a_plan_of_what_is_no_tpu_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(checkpoint, "--out", str(tmp_path / "v.mp4"), "--plan")) == 2
    error = capsys.readouterr().err
    assert error.startswith("crystools-tpu: --plan: the devices (1 x cpu) are none of v4-8, ")
    assert error.endswith("; leave it out\n")


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path, "--out", str(tmp_path / "v.mp4"))) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_tiny_checkpoint_is_asked_for_by_name_made_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(model: str, directory: Path) -> Path:
        directory.mkdir()
        return directory

    monkeypatch.setattr(on_demand, "write_tiny_checkpoint", write)
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "tiny-models" / "tiny-flux.2"
    assert generate.located("tiny-flux.2", "flux.2") == str(folder)
    for said in (f"tiny-flux.2 was made in {folder}: its weights are random, and so is what it shows\n", ""):
        generate.make_tiny(str(folder))
        assert capsys.readouterr().err == said
    (tmp_path / "tiny-flux.2").mkdir()
    assert generate.located("tiny-flux.2", "flux.2") == "tiny-flux.2"


def test_a_tiny_lora_is_asked_for_by_name_unless_a_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    name = "tiny-flux.2-lora.safetensors"
    request = Flux2Request("a cat", loras=(Lora(name, 0.5), Lora("style.safetensors")))
    made_at = str(tmp_path / "data" / "tiny-models" / name)
    assert generate.with_tiny_loras(request).loras == (Lora(made_at, 0.5), Lora("style.safetensors"))
    Path(name).touch()
    assert generate.with_tiny_loras(request) == request


def test_another_models_tiny_checkpoint_is_refused_with_the_right_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(Path("tiny-flux.2"), "--out", str(tmp_path / "v.mp4"))) == 2
    assert capsys.readouterr().err == (
        "crystools-tpu: --checkpoint: tiny-flux.2 is of flux.2; "
        "give tiny-wan2.1-t2v, which is of wan2.1-t2v\n"
    )


def test_a_tiny_checkpoint_never_overwrites(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny-checkpoint", "wan2.1-t2v", str(checkpoint)]) == 2
    assert "empty" in capsys.readouterr().err


def test_an_unknown_tiny_model_is_refused_with_the_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tiny-checkpoint", "sora", str(tmp_path)]) == 2
    assert "wan2.1-t2v" in capsys.readouterr().err


def test_the_history_of_the_process_is_what_the_report_says() -> None:
    assert all(report.status != telemetry.Status.RUNNING for report in telemetry.history.reports())
