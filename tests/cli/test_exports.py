"""Where `serve` and `generate` leave their metrics beside the port."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from crystools_exporters import pushgateway
from crystools_tpu import telemetry
from crystools_tpu.cli import main
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.cli.exports import leaving_metrics
from crystools_tpu.cli.serve import panel

ENDED = 'pipeline="wan2.1-t2v",status="{}",textfile="run"'


def a_run(error: Exception | None = None) -> None:
    with telemetry.run("wan2.1-t2v") as run, run.stage("save"):
        if error is not None:
            raise error


def test_a_run_leaves_its_own_metrics_and_none_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "run.prom"
    with leaving_metrics(textfile=path, pushgateway=None):
        a_run()
    text = path.read_text()
    assert f"\ncrystools_tpu_runs_total{{{ENDED.format('succeeded')}}} 1.0\n" in text
    assert "\ncrystools_tpu_host_memory_used_bytes " not in text


def test_a_run_that_fails_leaves_them_too_and_fails_as_it_did(tmp_path: Path) -> None:
    path = tmp_path / "run.prom"
    with pytest.raises(OSError, match="the run's own"), leaving_metrics(textfile=path, pushgateway=None):
        a_run(OSError("the run's own"))
    assert f"\ncrystools_tpu_runs_total{{{ENDED.format('failed')}}} 1.0\n" in path.read_text()


def test_without_a_run_what_an_earlier_one_left_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.prom"
    path.write_text("earlier\n")
    with leaving_metrics(textfile=path, pushgateway=None):
        pass
    assert path.read_text() == "earlier\n"


def test_a_gateway_that_hangs_and_a_folder_that_is_gone_are_a_warning_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pushgateway.push, "__kwdefaults__", {"instance": None, "patience_seconds": 0.1})
    folder = tmp_path / "folder"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as gateway:  # which accepts and says nothing
        url = f"http://127.0.0.1:{gateway.getsockname()[1]}"
        with leaving_metrics(textfile=folder / "run.prom", pushgateway=url):
            a_run()
            folder.rmdir()
    assert [message.split(":")[0] for message in caplog.messages] == [
        f"the metrics could not be written to {folder / 'run.prom'}",
        "the metrics could not be pushed to http",
    ]


def test_serve_writes_its_file_while_it_serves_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "serve.prom"
    with panel(simulate="v6e-4", textfile=path):
        a_run()
    text = path.read_text()
    assert 'crystools_tpu_chip_hbm_total_bytes{chip="tpu3",simulated="v6e-4",textfile="serve"} ' in text
    ended = 'pipeline="wan2.1-t2v",simulated="v6e-4",status="succeeded",textfile="serve"'
    assert f"crystools_tpu_runs_total{{{ended}}} " in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run.txt", "--textfile: {}/run.txt must end in .prom, for node_exporter reads no other file"),
        ("none/run.prom", "--textfile: the folder of {}/none/run.prom does not exist; create it first"),
    ],
)
def test_a_bad_textfile_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert main(["serve", "--port", "0", "--textfile", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == f"crystools-tpu: {message.format(tmp_path)}\n"


@pytest.mark.parametrize("url", ["gateway:9091", "ftp://gateway", "http://", "http://gateway:x", ""])
def test_a_bad_gateway_is_one_line(url: str) -> None:
    with pytest.raises(
        CommandError, match=r"--pushgateway: .*is no address; give one like http://gateway:9091"
    ):
        with leaving_metrics(textfile=None, pushgateway=url):
            pass
