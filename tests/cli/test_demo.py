"""`demo` as a user types it, watched through its own server while it runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from crystools_tpu.cli.demo import kept_checkpoint
from crystools_tpu.open_pages import announced
from docs.make_schemas import wire_schema

ROOT = Path(__file__).parents[2]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def probe(video: Path) -> dict[str, Any]:
    ffprobe = shutil.which("ffprobe")
    if ffprobe is None:
        pytest.skip("ffprobe is not installed (Debian package `ffmpeg`): the video is NOT checked")
    entries = "stream=codec_name,width,height,nb_read_frames,r_frame_rate"
    options = ["-v", "error", "-count_frames", "-show_entries", entries, "-of", "json"]
    (stream,) = json.loads(subprocess.check_output([ffprobe, *options, str(video)]))["streams"]
    found: dict[str, Any] = stream
    return found


def test_the_demo_is_watched_live_and_leaves_a_video_a_report_and_a_table(tmp_path: Path) -> None:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "pipelines", "exporters"))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    data = {"CRYSTOOLS_TPU_DATA_DIR": str(tmp_path / "data")}
    listener = socket.create_server(("127.0.0.1", 0))
    another = f"http://127.0.0.1:{listener.getsockname()[1]}/crystools-tpu/"
    with (
        listener,
        announced(another, data),
        subprocess.Popen(
            [sys.executable, "-m", "crystools_tpu", "demo", "--out", str(tmp_path / "out")],
            env={
                **os.environ,
                "PYTHONPATH": path,
                "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
                "JAX_NUM_CPU_DEVICES": "1",
                "XLA_FLAGS": "",  # the tests' compile quickly, and run slowly
                "TMPDIR": str(temporary),
                **data,
                # torch makes this folder as it is imported, by default in the one for temporary files
                "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        page = process.stdout.readline().split()[-1]
        assert process.stdout.readline() == f"It is on the page that is open already, too: {another}\n"
        while "step 2/20" not in (line := process.stdout.readline()):
            assert line, "it ended before its second step"
        (running,) = json.loads(get(page + "api/runs"))["runs"]
        metrics = get(page.replace("/crystools-tpu/", "/metrics"))
        rest, errors = process.communicate(timeout=280)
    assert (process.returncode, errors) == (0, "")

    assert (running["status"], running["stages"][-1]["name"]) == ("running", "denoise")
    assert len(running["stages"][-1]["steps"]) >= 2
    steps = 'crystools_tpu_step_duration_seconds_count{kind="full",pipeline="wan2.1-t2v",stage="denoise"} '
    assert any(line.startswith(steps) for line in metrics.splitlines())

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(report, wire_schema())
    assert (report["run_id"], report["status"]) == (running["run_id"], "succeeded")
    assert sum(stage["seconds"] for stage in report["stages"]) == pytest.approx(
        report["total_seconds"], rel=0.02
    )
    for stage in report["stages"]:
        assert stage["name"] in rest
    video = probe(tmp_path / "out" / "video.mp4")
    assert (video["codec_name"], video["width"], video["height"]) == ("h264", 288, 160)
    assert (video["nb_read_frames"], video["r_frame_rate"]) == ("17", "16/1")
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["report.json", "video.mp4"]
    assert list(temporary.iterdir()) == []


def test_the_demos_checkpoint_is_one_model_from_run_to_run_as_long_as_its_files_are_the_same(
    tmp_path: Path,
) -> None:
    def written(name: str, text: str) -> Path:
        (tmp_path / name / "vae").mkdir(parents=True)
        (tmp_path / name / "vae" / "config.json").write_text(text)
        return tmp_path / name

    kept = kept_checkpoint(written("a", "1"), tmp_path / "data")
    assert (kept / "vae" / "config.json").read_text() == "1"
    assert kept_checkpoint(written("b", "1"), tmp_path / "data") == kept
    assert kept_checkpoint(written("c", "2"), tmp_path / "data") != kept
    assert len(list((tmp_path / "data" / "demo").iterdir())) == 2


def test_a_checkpoint_that_cannot_be_kept_stays_where_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "data").write_text("no folder")
    assert kept_checkpoint(tmp_path / "checkpoint", tmp_path / "data") == tmp_path / "checkpoint"
