"""What a command refuses to write, before its work."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from crystools_exporters.run_log import RunLog
from crystools_pipelines.models import Model
from crystools_pipelines.runtime.saving import save_or_keep
from crystools_tpu import telemetry
from crystools_tpu.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run, with a checkpoint, a picture, a report, and links to them; and no model."""

    def never(model: Model) -> None:
        raise AssertionError("the work begins")

    monkeypatch.setattr(Model, "pipeline", never)
    monkeypatch.chdir(tmp_path)
    for component in ("vae", "tokenizer"):
        (tmp_path / "ckpt" / component).mkdir(parents=True)
    for file in (
        "model_index.json",
        "vae/config.json",
        "vae/weights.json",
        "tokenizer/tokenizer_config.json",
    ):
        (tmp_path / "ckpt" / file).write_text("{}")
    (tmp_path / "ckpt" / "old.json").write_text("made before, in the same folder")
    (tmp_path / "picture.png").touch()
    (tmp_path / "same").symlink_to(tmp_path)
    (tmp_path / "link.npy").symlink_to("video.npy")
    (tmp_path / "hard.json").hardlink_to(tmp_path / "ckpt" / "vae" / "weights.json")
    with telemetry.run("mine", bus=telemetry.Bus(), history=(history := telemetry.History())):
        pass
    (tmp_path / "run.json").write_text(json.dumps(telemetry.to_wire(history.reports()[0])))
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "data"))
    RunLog(tmp_path / "data").close()
    return tmp_path


GENERATE = "generate wan2.2-i2v --checkpoint ckpt --prompt x --image picture.png"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (f"{GENERATE} --out video.npy --report video.npy", "--report: video.npy is --out, too"),
        (f"{GENERATE} --out video.npy --report ./same/video.npy", "--report: same/video.npy is --out, too"),
        (f"{GENERATE} --out video.npy --report link.npy", "--report: link.npy is --out, too"),
        (f"{GENERATE} --out v.npy --textfile a.prom --report a.prom", "--textfile: a.prom is --report, too"),
        (
            f"{GENERATE} --out a.npy --profile-steps 2 --profile-dir ./a.npy",
            "--profile-dir: a.npy is --out, too",
        ),
        (f"{GENERATE} --out v.npy --report picture.png", "--report: picture.png is --image, too"),
        (
            f"{GENERATE} --out v.npy --report ckpt/model_index.json",
            "--report: ckpt/model_index.json is a file of --checkpoint (ckpt/model_index.json), too",
        ),
        (
            f"{GENERATE} --out v.npy --report hard.json",
            "--report: hard.json is a file of --checkpoint (ckpt/vae/weights.json), too",
        ),
        (
            f"{GENERATE} --out v.npy --report data/runs.db",
            "--report: data/runs.db is the history of runs, too",
        ),
        ("trace run.json --out ./same/run.json", "--out: same/run.json is RUN, too"),
        ("runs export --out same/data/runs.db", "--out: same/data/runs.db is the history of runs, too"),
        (
            "serve --port 0 --textfile key.prom --tls-cert a.pem --tls-key same/key.prom",
            "--textfile: key.prom is --tls-key, too",
        ),
    ],
)
def test_two_files_of_a_command_that_are_one_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, why: str
) -> None:
    assert main(command.split()) == 2
    assert capsys.readouterr().err == f"crystools-tpu: {why}; give another name\n"
    assert (folder / "picture.png").stat().st_size == 0
    assert RunLog(folder / "data").page(1) == ()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("--out none/v.npy", "--out: none/v.npy: its folder does not exist; create it first"),
        ("--out v.npy --report ckpt", "--report: ckpt: is a folder; give the name of a file"),
        ("--out v.npy --report /dev/null", "--report: /dev/null: is no plain file; give another name"),
        ("--out v.npy --report /sys/r.json", "--report: /sys/r.json: its folder cannot be written to: "),
        ("--out v.npy --textfile /sys/r.prom", "--textfile: /sys/r.prom: its folder cannot be written to: "),
        ("--out v.mov --plan", "--out: cannot write .mov files; end the name in .mp4 or .npy or .png"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, why: str
) -> None:
    assert main([*GENERATE.split(), *command.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"crystools-tpu: {why}")
    assert len(error.splitlines()) == 1


def test_what_an_earlier_run_left_beside_a_checkpoint_may_be_replaced(folder: Path) -> None:
    with pytest.raises(AssertionError, match="the work begins"):
        main([*GENERATE.split(), "--out", "ckpt/v.npy", "--report", "ckpt/old.json"])


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("run.json", "--out: run.json cannot be made: File exists; give another"),
        ("/proc/demo", "--out: /proc/demo cannot be made: "),
        ("linked", "the report: linked/report.json is --out, too; give another name"),
        ("taken", "the report: taken/report.json: is a folder; give the name of a file"),
    ],
)
def test_the_demos_folder_is_looked_at_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str], out: str, why: str
) -> None:
    (folder / "linked").mkdir()
    (folder / "linked" / "report.json").symlink_to("video.mp4")
    (folder / "taken" / "report.json").mkdir(parents=True)
    assert main(["demo", "--once", "--out", out]) == 2
    assert capsys.readouterr().err.startswith(f"crystools-tpu: {why}")


@pytest.fixture
def saving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose work is done at once, and whose frames are then to be saved."""

    def generate(request: object, *, out: Path, **others: object) -> SimpleNamespace:
        with telemetry.run("wan2.2-i2v") as run:
            if out.parent.name == "gone":
                out.parent.rmdir()
                out.parent.touch()
            with run.stage("save"):
                save_or_keep(np.zeros((1, 8, 8, 3), np.float32), out, 16, run.run_id)
        return SimpleNamespace(report=run.report)

    monkeypatch.setattr("crystools_pipelines.run.generate", generate)
    (folder / "gone").mkdir()


@pytest.mark.usefixtures("saving")
def test_frames_that_cannot_be_saved_are_kept_and_the_run_has_failed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*GENERATE.split(), "--out", "gone/v.mp4", "--report", "r.json"]) == 1
    report = json.loads((folder / "r.json").read_text())
    kept = folder / "data" / "frames" / f"{report['run_id']}.npy"
    assert np.load(kept).shape == (1, 8, 8, 3)
    assert (report["status"], report["stages"][-1]["status"]) == ("failed", "failed")
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "crystools-tpu: --out: gone/v.mp4: the frames could not be written: File exists; they are kept in "
        f"{kept}: "
    )
    assert report["error"] == f"SaveError: {error.removeprefix('crystools-tpu: --out: ')}"


@pytest.mark.usefixtures("saving")
def test_a_report_that_cannot_be_written_in_the_end_fails_the_command_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*GENERATE.split(), "--out", "v.npy", "--report", "gone/r.json"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crystools_tpu.cli.generate.written_whole", unwritable)
        assert main([*GENERATE.split(), "--out", "v.npy", "--report", "gone/r.json"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "crystools-tpu: --report: gone/r.json cannot be written: No space left on device; "
        "`crystools-tpu runs show` has it"
    )
    assert np.load(folder / "v.npy").shape == (1, 8, 8, 3)


def unwritable(path: Path) -> None:
    raise OSError(28, "No space left on device")
