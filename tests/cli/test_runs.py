"""`runs` as a user types it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from crystools_exporters.heartbeats import Observer
from crystools_exporters.processes import Process
from crystools_exporters.run_log import RunLog
from crystools_tpu import telemetry
from crystools_tpu.cli import main
from crystools_tpu.telemetry import RunReport, Status, StepRecord
from crystools_tpu.telemetry.step_times import step_statistics
from tests.exporters.conftest import REPORT, STAGE

Output = pytest.CaptureFixture[str]


def report(run_id: str, hours: float, step_seconds: float = 4.5, **changes: object) -> RunReport:
    """A run of 50 steps that began so long after the first."""
    records = tuple(StepRecord(step_seconds * (1 + 0.0001 * n), False, True) for n in range(50))
    stage = dataclasses.replace(
        STAGE, steps=records, step_seconds=step_statistics(records), seconds=30 + 50 * step_seconds
    )
    return dataclasses.replace(
        REPORT,
        run_id=run_id,
        started_unix_seconds=REPORT.started_unix_seconds + 3600 * hours,
        total_seconds=stage.seconds,
        stages=(stage,),
        **changes,  # type: ignore[arg-type]
    )


DEVICE = REPORT.device
assert DEVICE is not None
FAST, SLOW = report("aaaa1111", 0), report("bbbb2222", 1, step_seconds=5.4)
FAILED = report(
    "aaaa3333", 2, status=Status.FAILED, error="XlaRuntimeError: RESOURCE_EXHAUSTED", pipeline="flux.2"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The history that the commands read."""
    folder = tmp_path / "data"
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(folder))
    monkeypatch.setenv("COLUMNS", "120")
    return folder


@pytest.fixture
def history(folder: Path) -> Path:
    with RunLog(folder) as log:
        log.write([FAST, SLOW, FAILED])
    return folder


@pytest.mark.usefixtures("history")
def test_list_shows_the_newest_runs_first(capsys: Output) -> None:
    assert main(["runs", "list", "--limit", "2"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if re.search(r"\d\d-\d\d \d\d:\d\d", line)]
    assert [row.split()[0] for row in rows] == ["aaaa3333", "bbbb2222"]
    assert "flux.2" in rows[0]
    assert "failed" in rows[0]
    assert "5.413" in rows[1]
    assert "a cat on a surfboard" in rows[1]


@pytest.mark.usefixtures("history")
def test_list_shows_what_is_asked_for(capsys: Output) -> None:
    assert main(["runs", "list", "--json", "--pipeline", "wan2.1-t2v", "--status", "succeeded"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == [telemetry.to_wire(SLOW), telemetry.to_wire(FAST)]


@pytest.mark.usefixtures("history")
def test_list_finds_runs_by_their_words(capsys: Output) -> None:
    assert main(["runs", "list", "--json", "--text", "SURFBOARD cat"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        telemetry.to_wire(run) for run in (FAILED, SLOW, FAST) if "surfboard" in str(run.params)
    ]
    assert main(["runs", "list", "--text", "zeppelin"]) == 0
    assert capsys.readouterr().err.startswith("no such runs in ")


@pytest.mark.usefixtures("history")
def test_numbers_and_names_beyond_what_the_history_can_have_are_no_fault(capsys: Output) -> None:
    assert main(["runs", "list", "--json", "--limit", str(10**20)]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert main(["runs", "list", "--json", "--pipeline", "x\udce9"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["runs", "prune", "--max-size", "999999999999999GiB"]) == 0
    assert capsys.readouterr().out == "0 runs deleted\n"


def test_an_empty_history_is_said(folder: Path, capsys: Output) -> None:
    assert main(["runs", "list"]) == 0
    assert capsys.readouterr().err == f"no such runs in {folder / 'runs.db'}\n"


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("name", ["bbbb2222", "bb", "latest~1"])
def test_show_tells_what_the_run_was_and_where_its_time_went(name: str, capsys: Output) -> None:
    assert main(["runs", "show", name]) == 0
    out = capsys.readouterr().out
    assert "run     bbbb2222" in out
    assert "device  8 x v6e" in out
    assert "prompt=a cat on a surfboard, seed=2025" in out
    assert re.search(r"denoise +300\.000 +30\.00 miss +50 +5\.413 +37\.5%", out)


@pytest.mark.usefixtures("history")
def test_show_tells_what_the_run_cost_where_its_user_gives_a_price(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("CRYSTOOLS_TPU_PRICE_PER_CHIP_HOUR", "1.20")
    assert main(["runs", "show", "bbbb2222"]) == 0
    assert re.search(
        r"^cost \d+\.\d\d: 8 chips for .* s, at 1\.20 a chip-hour$", capsys.readouterr().out, re.M
    )
    monkeypatch.setenv("CRYSTOOLS_TPU_PRICE_PER_CHIP_HOUR", "1,20")
    assert main(["runs", "show", "bbbb2222"]) == 2
    said = "CRYSTOOLS_TPU_PRICE_PER_CHIP_HOUR: '1,20' is no price: give a number above 0, such as 1.20"
    assert said in capsys.readouterr().err


def test_show_tells_what_the_run_warned_of(folder: Path, capsys: Output) -> None:
    with RunLog(folder) as log:
        log.write([dataclasses.replace(FAST, warnings=("prompt: it is cut", "negative_prompt: it is cut"))])
    assert main(["runs", "show", "latest"]) == 0
    assert capsys.readouterr().out.endswith(
        "\nwarning: prompt: it is cut\nwarning: negative_prompt: it is cut\n"
    )


@pytest.mark.usefixtures("history")
def test_show_json_is_the_whole_report(capsys: Output) -> None:
    assert main(["runs", "show", "latest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == telemetry.to_wire(FAILED)


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aaaa", "aaaa: several runs begin so; give more of the id"),
        ("cccc", "cccc: no such run; `crystools-tpu runs list` shows them"),
        ("", ": no such run"),
        ("latest~3", "latest~3: there are 3 runs in"),
        ("latest~999999999", "latest~999999999: there are 3 runs in"),
        ("latest~100000000000000000000", "latest~100000000000000000000: no such run"),
        ("aa\0", "aa\0: no such run"),
        ("missing.json", "missing.json cannot be read: No such file or directory"),
    ],
)
def test_a_run_that_nobody_knows_is_said(name: str, message: str, capsys: Output) -> None:
    assert main(["runs", "show", name]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("history")
def test_compare_says_what_is_slower_and_fails_where_asked_to(capsys: Output) -> None:
    assert main(["runs", "compare", "aaaa1", "bbbb"]) == 0
    out = capsys.readouterr().out
    assert "A aaaa1111, B bbbb2222; the same work on the same kind of devices" in out
    assert re.search(r"whole run +time +255\.000 s +300\.000 s +\+17\.6% +unproven", out)
    assert re.search(r"step, median +4\.511 s +5\.413 s +\+20\.0% +worse", out)

    assert main(["runs", "compare", "aaaa1", "bbbb", "--fail-on", "25%"]) == 0
    assert main(["runs", "compare", "bbbb", "aaaa1", "--fail-on", "10%"]) == 0
    capsys.readouterr()
    assert main(["runs", "compare", "aaaa1", "bbbb", "--fail-on", "10%"]) == 1
    err = capsys.readouterr().err
    assert "crystools-tpu: worse by more than 10%:" in err
    assert "denoise, step, median: 4.511 s -> 5.413 s (+20.0%, worse)" in err


GATE = ["runs", "compare", "aaaa1", "cccc", "--fail-on", "10%"]
HALF = {"total_seconds": 100.0, "stages": FAST.stages[:0]}


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": Status.FAILED, "error": "ValueError: no\nmore"}, "B failed (ValueError: no)"),
        ({"status": Status.CANCELLED, **HALF}, "B was cancelled"),
        ({"status": Status.INTERRUPTED, "total_seconds": None}, "B was interrupted"),
        ({"status": Status.RUNNING, "total_seconds": None}, "B is still running"),
        ({"pipeline": "mine"}, "different pipelines: A wan2.1-t2v, B mine"),
        ({"model_id": "./mine"}, "different models: A Wan-AI/Wan2.1-T2V-14B-Diffusers, B ./mine"),
        (
            {"device": dataclasses.replace(DEVICE, count=4, chips=4.0)},
            "different devices: A 8 x v6e, B 4 x v6e",
        ),
        ({"device": None}, "different devices: A 8 x v6e, B unknown"),
    ],
)
def test_a_gate_does_not_pass_what_cannot_be_compared(
    folder: Path, capsys: Output, changes: dict[str, Any], said: str
) -> None:
    other = dataclasses.replace(FAST, run_id="cccc4444", error=None)
    with RunLog(folder) as log:
        log.write([dataclasses.replace(other, **changes)])
        assert main(GATE) == 1
        out, err = capsys.readouterr()
        assert err.startswith(f"crystools-tpu: --fail-on: not comparable: {said}")
        assert err.count("\n") == 1
        assert out.startswith(f"Not comparable: {said}"), "and what there is to compare is shown"
        assert "whole run" in out

        assert main([*GATE, "--json"]) == 1
        comparison = json.loads(capsys.readouterr().out)
        assert comparison["b_status"] == changes.get("status", "succeeded")
        assert comparison["incomparable"][0].startswith(said)

        assert main(GATE[:4]) == 0, "without the gate it is said and no failure"
        assert f"Not comparable: {said}" in capsys.readouterr().out


@pytest.mark.usefixtures("history")
def test_a_gate_without_a_baseline_cannot_be_asked(folder: Path, capsys: Output) -> None:
    with RunLog(folder) as log:
        log.write([dataclasses.replace(FAST, run_id="cccc4444", status=Status.CANCELLED)])
    assert main(["runs", "compare", "cccc", "aaaa1", "--fail-on", "10%"]) == 2
    assert capsys.readouterr().err == "crystools-tpu: --fail-on: not comparable: A was cancelled\n"
    assert main(["runs", "compare", "cccc", "aaaa3", "--fail-on", "10%"]) == 1, "a failure is one in any case"
    assert "not comparable: B failed (XlaRuntimeError: RESOURCE_EXHAUSTED); A was" in capsys.readouterr().err
    assert main(["runs", "compare", "aaaa1", "aaaa1", "--fail-on", "10%"]) == 1
    assert "A and B are the same run" in capsys.readouterr().err


@pytest.mark.usefixtures("history")
def test_compare_shows_how_a_run_ended_that_did_not_succeed(capsys: Output) -> None:
    assert main(["runs", "compare", "aaaa1", "aaaa3"]) == 0
    assert "A aaaa1111, B aaaa3333 (failed); differs: pipeline" in capsys.readouterr().out


def test_compare_takes_report_files_as_ci_has_them(tmp_path: Path, capsys: Output) -> None:
    for name, run in (("a", FAST), ("b", SLOW)):
        (tmp_path / f"{name}.json").write_text(json.dumps(telemetry.to_wire(run)))
    assert main(["runs", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert (comparison["a"], comparison["b"]) == ("aaaa1111", "bbbb2222")
    (step,) = [c for c in comparison["stages"][0]["changes"] if c["name"] == "step_seconds_median"]
    assert step["verdict"] == "worse"


@pytest.mark.usefixtures("history")
def test_a_limit_that_is_no_percentage_is_said(capsys: Output) -> None:
    assert main(["runs", "compare", "aaaa1", "bbbb", "--fail-on", "much"]) == 2
    assert "--fail-on: 'much' is no percentage, such as 10%" in capsys.readouterr().err


@pytest.mark.usefixtures("history")
def test_what_is_exported_can_be_imported_into_another_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    lines = tmp_path / "runs.jsonl"
    assert main(["runs", "export", "--out", str(lines), "--pipeline", "wan2.1-t2v"]) == 0
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "other"))
    assert main(["runs", "import", str(lines)]) == 0
    assert main(["runs", "import", str(lines)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"2 runs written to {lines}",
        "2 runs added, 0 were there already",
        "0 runs added, 2 were there already",
    ]
    assert main(["runs", "export"]) == 0
    assert capsys.readouterr().out == lines.read_text()


@pytest.mark.usefixtures("history")
def test_an_export_that_cannot_be_written_leaves_nothing(tmp_path: Path, capsys: Output) -> None:
    assert main(["runs", "export", "--out", str(tmp_path / "missing" / "runs.jsonl")]) == 2
    assert "--out:" in capsys.readouterr().err
    assert not (tmp_path / "missing").exists()


@pytest.mark.usefixtures("history")
def test_what_cannot_be_read_is_left_out_and_named(folder: Path, capsys: Output) -> None:
    with contextlib.closing(sqlite3.connect(folder / "runs.db", isolation_level=None)) as database:
        database.execute("UPDATE run SET report = json_set(report, '$.schema', 2) WHERE run_id = 'bbbb2222'")
    assert main(["runs", "list"]) == 0
    out, err = capsys.readouterr()
    assert "aaaa1111" in out
    assert "bbbb2222" not in out
    assert err == (
        "1 runs could not be read: bbbb2222. "
        "`crystools-tpu runs show` says why, `crystools-tpu runs delete` removes them\n"
    )
    assert main(["runs", "list", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [run["run_id"] for run in json.loads(out)] == ["aaaa3333", "aaaa1111"]
    assert err.startswith("1 runs could not be read")

    for command in (["show", "bbbb"], ["compare", "aaaa1", "bbbb"]):
        assert main(["runs", *command]) == 2
        err = capsys.readouterr().err
        assert err.startswith(
            "crystools-tpu: run bbbb2222 cannot be read: this is no run report: a JSON object"
        )
        assert err.endswith("`crystools-tpu runs delete bbbb2222` removes it\n")
        assert err.count("\n") == 1

    assert main(["runs", "export"]) == 0
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (2, "1 runs could not be read, and are left out\n")
    assert main(["runs", "delete", "bbbb"]) == 0
    assert main(["runs", "list"]) == 0
    assert capsys.readouterr().err == ""


def test_it_is_said_of_which_runs_nobody_here_can_know(folder: Path, capsys: Output) -> None:
    elsewhere = Observer(Process("another-host", "another boot", "", "", 1, 0.0))
    with RunLog(folder, observer=elsewhere) as log:
        log.write([dataclasses.replace(FAST, status=Status.RUNNING)])
    assert main(["runs", "list"]) == 0
    out, err = capsys.readouterr()
    assert "running" in out
    assert err == (
        "1 of the running runs are of another machine, or were before a reboot: if they have ended "
        "without a word, `runs list` knows 60 seconds from now\n"
    )


@pytest.mark.usefixtures("history")
def test_delete_deletes_what_is_named_and_nothing_else(capsys: Output) -> None:
    assert main(["runs", "delete", "latest~1", "bbbb", "aaaa1"]) == 0
    assert capsys.readouterr().out == "2 runs deleted\n"
    assert main(["runs", "list", "--json"]) == 0
    assert [run["run_id"] for run in json.loads(capsys.readouterr().out)] == ["aaaa3333"]
    assert main(["runs", "delete", "aaaa3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "deleted": ["aaaa3333"]}


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["bbbb", "cccc"], "cccc: no such run"),
        (["bbbb", "aaaa"], "aaaa: several runs begin so; give more of the id"),
        (["bbbb", ""], ": no such run"),
        (["bbbb", "report.json"], "report.json: no such run"),
        (["latest~7"], "latest~7: there are 3 runs in"),
    ],
)
def test_delete_deletes_nothing_where_one_name_is_wrong(
    names: list[str], message: str, capsys: Output
) -> None:
    assert main(["runs", "delete", *names]) == 2
    assert message in capsys.readouterr().err
    assert main(["runs", "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


@pytest.mark.usefixtures("history")
def test_delete_refuses_a_run_in_progress_unless_forced(folder: Path, capsys: Output) -> None:
    with RunLog(folder) as log:
        log.write([dataclasses.replace(FAST, run_id="dddd", status=Status.RUNNING)])
        assert main(["runs", "delete", "aaaa1", "dddd"]) == 2
        assert capsys.readouterr().err == (
            "crystools-tpu: still running: dddd; nothing was deleted. --force deletes them all the same\n"
        )
        assert log.report("aaaa1111") is not None
        assert main(["runs", "delete", "aaaa1", "dddd", "--force"]) == 0
        assert log.report("dddd") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this is no JSON: Expecting value at character 1"),
        (b"\x89PNG", "this is no UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (json.dumps({**telemetry.to_wire(FAST), "stages": 3}).encode(), "report.stages is no list"),
    ],
)
def test_a_report_file_that_is_none_is_one_line(
    tmp_path: Path, capsys: Output, content: bytes, message: str
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert main(["runs", "show", str(tmp_path / "a.json")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_file_of_something_else_is_not_imported(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "runs.jsonl").write_text('{"a": 1}\n')
    assert main(["runs", "import", str(tmp_path / "runs.jsonl")]) == 2
    assert "line 1: this is no run report" in capsys.readouterr().err


@pytest.mark.usefixtures("history")
def test_prune_deletes_what_is_old(capsys: Output) -> None:
    assert main(["runs", "prune", "--older-than", "90d"]) == 0
    assert main(["runs", "list"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "3 runs deleted\n"
    assert "no such runs" in captured.err


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "prune: give --older-than, --max-size, or both"),
        (["--older-than", "3"], "prune: '3' is not understood: an age is a number of hours, days or weeks"),
        (
            ["--max-size", "3 parsecs"],
            "prune: '3 parsecs' is not understood: a size is a number with its unit",
        ),
        (
            ["--max-size", 400 * "9" + "GiB"],
            "is not understood: a size is a number with its unit",
        ),
    ],
)
def test_prune_deletes_nothing_that_was_not_clearly_asked_for(
    options: list[str], message: str, capsys: Output
) -> None:
    assert main(["runs", "prune", *options]) == 2
    assert message in capsys.readouterr().err
    assert main(["runs", "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
