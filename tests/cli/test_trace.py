"""`trace` as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

from crystools_tpu import telemetry
from crystools_tpu.cli import main


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """The report of a run with a stage."""
    history = telemetry.History()
    with telemetry.run("mine", bus=telemetry.Bus(), history=history) as run, run.stage("save"):
        pass
    path = tmp_path / "report.json"
    path.write_text(json.dumps(telemetry.to_wire(history.reports()[0])))
    return path


def test_a_report_becomes_a_trace(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = report.with_name("run.pftrace")
    assert main(["trace", str(report), "--out", str(out)]) == 0
    names = [packet.track_event.name for packet in Trace.FromString(out.read_bytes()).packet]
    assert {"run", "save"} < {*names}
    assert capsys.readouterr().out == f"{out}: open it in ui.perfetto.dev\n"


def test_what_is_no_report_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    other.write_text("[]")
    for path, reason in ((other, "this is no run report"), (tmp_path / "none.json", "cannot be read")):
        assert main(["trace", str(path), "--out", str(tmp_path / "run.pftrace")]) == 2
        error = capsys.readouterr().err
        assert str(path) in error
        assert reason in error
    assert not (tmp_path / "run.pftrace").exists()


def test_a_folder_that_is_not_there_is_one_line(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(report), "--out", str(report.parent / "none" / "run.pftrace")]) == 2
    assert "--out: " in capsys.readouterr().err


def test_with_a_broken_package_it_says_which_and_why(
    report: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if "perfetto" in name]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "perfetto").mkdir()
    (tmp_path / "perfetto" / "__init__.py").write_text("raise TypeError('Descriptors cannot be created')")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["trace", str(report), "--out", str(report.with_name("run.pftrace"))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        " is there, but cannot be imported (TypeError: Descriptors cannot be created): pip install " in line
    )
    assert "crystools-tpu: perfetto" in line
    assert "pip install 'crystools-tpu[perfetto]'" in line


def test_without_the_package_it_says_what_to_install(
    report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["trace", str(report), "--out", str(report.with_name("run.pftrace"))]) == 2
    assert "pip install 'crystools-tpu[perfetto]'" in capsys.readouterr().err
