"""The history of runs: what is kept, found again, marked, pruned, exported and imported."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystools_exporters import report_lines
from crystools_exporters.run_log import RunLog, RunLogError, StillRunning, UnreadableRun
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunReport, Status, StepRecord
from crystools_tpu.telemetry.events import Params

from .conftest import REPORT, STAGE

DAY_SECONDS = 86400.0
NOW = REPORT.started_unix_seconds + DAY_SECONDS


def report(run_id: str, days_ago: float = 1.0, **changes: object) -> RunReport:
    """A run that began so many days before `NOW`."""
    started = NOW - days_ago * DAY_SECONDS
    return dataclasses.replace(REPORT, run_id=run_id, started_unix_seconds=started, **changes)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RunLog]:
    with RunLog(tmp_path / "data", clock=lambda: NOW) as log:
        yield log


def ids(reports: tuple[RunReport, ...]) -> list[str]:
    return [run.run_id for run in reports]


def test_a_report_comes_back_as_it_was(log: RunLog) -> None:
    log.write([REPORT])
    assert log.report(REPORT.run_id) == REPORT
    assert log.report("nobody") is None


def test_a_later_report_of_the_same_run_replaces_the_earlier(log: RunLog) -> None:
    log.write([dataclasses.replace(REPORT, status=Status.RUNNING, total_seconds=None)])
    log.write([REPORT])
    assert log.page(10) == (REPORT,)


def test_runs_are_listed_newest_first_page_by_page(log: RunLog) -> None:
    log.write([report(f"run{day}", day) for day in range(5)])
    assert ids(log.page(2)) == ["run0", "run1"]
    assert ids(log.page(2, before="run1")) == ["run2", "run3"]
    assert ids(log.page(2, before="run4")) == []
    assert ids(log.page(2, before="nobody")) == []


def test_a_run_that_has_ended_does_not_run_again_by_a_writer_that_is_late(log: RunLog) -> None:
    log.write([report("a"), report("gone", status=Status.INTERRUPTED)])
    log.write([report("a", status=Status.RUNNING), report("gone", status=Status.RUNNING)])
    assert {run.run_id: run.status for run in log.page(10)} == {
        "a": Status.SUCCEEDED,
        "gone": Status.RUNNING,
    }


def test_runs_that_began_together_are_on_one_page_each(log: RunLog) -> None:
    log.write([report(run_id) for run_id in "abc"])
    assert ids(log.page(2)) == ["c", "b"]
    assert ids(log.page(2, before="b")) == ["a"]


def test_runs_are_found_by_pipeline_and_status(log: RunLog) -> None:
    log.write([report("a", 1, pipeline="flux.2"), report("b", 2), report("c", 3, status=Status.FAILED)])
    assert ids(log.page(10, pipeline="flux.2")) == ["a"]
    assert ids(log.page(10, status="failed")) == ["c"]
    assert ids(log.page(10, pipeline="flux.2", status="failed")) == []


def test_the_beginning_of_an_id_is_enough_where_it_is_the_only_one(log: RunLog) -> None:
    log.write([report("5f3c0a"), report("5f9999"), report("5f9998")])
    assert log.beginning_with("5f3") == ("5f3c0a",)
    assert len(log.beginning_with("5f")) == 2
    assert log.beginning_with("6") == ()


def test_any_text_and_any_number_may_be_asked_for(log: RunLog) -> None:
    """SQLite takes neither surrogates, which come from bytes that are no UTF-8, nor numbers of 65 bits."""
    log.write([REPORT])
    for text in ("\ud800", "\udce9", "a\0", "'"):
        assert log.report(text) is None
        assert log.beginning_with(text) == ()
        assert log.page(1, before=text) == log.page(1, pipeline=text) == ()
    assert log.page(10**20) == (REPORT,)


def test_the_file_can_be_asked_with_sqlite_alone(log: RunLog) -> None:
    log.write([REPORT])
    with sqlite3.connect(log.path) as database:
        (answer,) = database.execute("SELECT report ->> '$.params.seed' FROM run").fetchall()
    database.close()
    assert answer == (2025,)


def test_old_runs_are_pruned_and_one_in_progress_is_not(log: RunLog) -> None:
    log.write([report("old", 31), report("new", 29), report("long", 40, status=Status.RUNNING)])
    assert log.prune(max_age_seconds=30 * DAY_SECONDS) == 1
    assert ids(log.page(10)) == ["new", "long"]


def pages(log: RunLog) -> int:
    with sqlite3.connect(log.path) as database:
        (count,) = database.execute("PRAGMA page_count").fetchone()
    database.close()
    return int(count)


def test_the_oldest_are_pruned_until_the_rest_is_small_enough_and_the_file_shrinks(log: RunLog) -> None:
    log.write([report(f"run{day:03}", day, params={"prompt": "x" * 10_000}) for day in range(100)])
    pages_before = pages(log)
    deleted = log.prune(max_bytes=200_000)
    kept = ids(log.page(200))
    assert deleted == 100 - len(kept)
    assert 10 < len(kept) < 20
    assert kept == [f"run{day:03}" for day in range(len(kept))]
    assert pages(log) < pages_before / 3


def lines_of(*reports: object) -> io.BytesIO:
    """A file of a line for each: a report, an object or the text itself."""
    lines = [
        line
        if isinstance(line, bytes)
        else json.dumps(telemetry.to_wire(line) if isinstance(line, RunReport) else line).encode()
        for line in reports
    ]
    return io.BytesIO(b"\n".join(lines) + b"\n")


def test_what_is_exported_is_imported_elsewhere_as_it_was(log: RunLog, tmp_path: Path) -> None:
    log.write([report("b", 1), report("a", 2, pipeline="flux.2")])
    lines = io.StringIO()
    assert log.export(lines) == (2, 0)
    assert [json.loads(line)["run_id"] for line in lines.getvalue().splitlines()] == ["a", "b"]
    with RunLog(tmp_path / "elsewhere") as other:
        other.write([report("b", 1)])
        assert other.import_lines(io.BytesIO(lines.getvalue().encode())) == (1, 1)
        assert other.page(10) == log.page(10)


def test_only_what_was_asked_for_is_exported(log: RunLog) -> None:
    log.write([report("b", 1), report("a", 2, pipeline="flux.2")])
    lines = io.StringIO()
    assert log.export(lines, pipeline="flux.2") == (1, 0)
    assert json.loads(lines.getvalue())["run_id"] == "a"


WIRE = telemetry.to_wire(REPORT)
DEEP = b'{"schema": 1, "params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({name: value for name, value in WIRE.items() if name != "device"}, "report lacks device"),
        (b"12:00 INFO a log", "this is no JSON: Extra data at character 3"),
        (b"\xff\xfe{", "this is no UTF-8: invalid start byte at byte 1"),
        ({**WIRE, "schema": 2}, "this is no run report: a JSON object with schema 1 was expected"),
        ([], "this is no run report: a JSON object with schema 1 was expected"),
        ({**WIRE, "run_id": 7}, "report.run_id is no text"),
        ({**WIRE, "pipeline": None}, "report.pipeline is no text"),
        ({**WIRE, "total_seconds": "42"}, "report.total_seconds is no number, or too large a one"),
        ({**WIRE, "total_seconds": True}, "report.total_seconds is no number, or too large a one"),
        ({**WIRE, "total_seconds": 10**400}, "report.total_seconds is no number, or too large a one"),
        ({**WIRE, "total_seconds": float("nan")}, "this is no JSON: NaN is no number"),
        (json.dumps(WIRE).replace("42.5", "1e999").encode(), r"report\.\S+ is no number, or too large a one"),
        ({**WIRE, "started_unix_seconds": 1e12}, "report.started_unix_seconds is no time"),
        ({**WIRE, "started_unix_seconds": None}, "report.started_unix_seconds is no number"),
        ({**WIRE, "total_seconds": -1e-3}, "report.total_seconds is no time"),
        ({**WIRE, "params": ["a cat"]}, "report.params is no object"),
        ({**WIRE, "params": {"a": [[[[[[[[[]]]]]]]]]}}, "report.params is nested too deeply"),
        ({**WIRE, "device": {**WIRE["device"], "count": 2.5}}, "report.device.count is no whole number"),
        (
            {**WIRE, "stages": [{**WIRE["stages"][0], "steps": [{"seconds": [], "compiled": 1}]}]},
            r"report\.stages\[0\]\.steps\[0\] lacks finite",
        ),
        (
            {**WIRE, "stages": [{**WIRE["stages"][0], "name": "dream"}]},
            r"report\.stages\[0\]\.name is none of download",
        ),
        (DEEP, "this is no run report: it is nested too deeply"),
        (b'{"schema": ' + b"1" * 5000 + b"}", "integer string conversion"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_line_is_named_and_nothing_is_imported(log: RunLog, line: object, message: str) -> None:
    with pytest.raises(RunLogError, match=f"^line 3: .*{message}.*; nothing was imported$"):
        log.import_lines(lines_of(report("good"), b"", line, report("after")))
    assert log.page(10) == ()
    assert log.import_lines(lines_of(report("good"))) == (1, 0), "and the next import works"


def test_a_line_longer_than_any_report_is_not_read_into_memory(
    log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(io.RawIOBase):
        most = 0

        def readline(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size > 0
            self.most += size
            return b"x" * size

    monkeypatch.setattr(report_lines, "MOST_BYTES", 1024**2)
    lines = Endless()
    with pytest.raises(
        RunLogError, match=r"^line 1: longer than 1 MiB, which no report is; nothing was imported$"
    ):
        log.import_lines(lines)  # type: ignore[arg-type]
    assert lines.most == 1024**2 + 1


def test_runs_are_imported_one_at_a_time(log: RunLog) -> None:
    """None is kept in memory, however many there are."""

    def in_memory() -> int:
        return sum(type(one) is RunReport for one in gc.get_objects())

    before = in_memory()

    def lines() -> Iterator[bytes]:
        for number in range(10):
            assert number < 9 or in_memory() <= before + 1
            yield json.dumps({**WIRE, "run_id": f"run{number}"}).encode() + b"\n"

    class File:
        def __init__(self) -> None:
            self._lines = lines()

        def readline(self, size: int) -> bytes:
            return next(self._lines, b"")

    assert log.import_lines(File()) == (10, 0)  # type: ignore[arg-type]
    assert len(log.page(100)) == 10


def test_a_run_that_was_exported_while_it_ran_ends_with_what_was_known_of_it_then(log: RunLog) -> None:
    begun = report("a", status=Status.RUNNING, total_seconds=None, stages=())
    denoise = dataclasses.replace(
        STAGE,
        status=Status.RUNNING,
        seconds=None,
        started_unix_seconds=begun.started_unix_seconds + 10,
        compiles=(),
        steps=(StepRecord(31.5, True, None), StepRecord(4.25, False, None)),
    )
    decode = dataclasses.replace(
        denoise, steps=(), started_unix_seconds=begun.started_unix_seconds + 50, pipeline="beside it"
    )
    stages = [(), (denoise,), (denoise, decode)]
    runs = [dataclasses.replace(begun, run_id=str(len(each)), stages=each) for each in stages]
    assert log.import_lines(lines_of(*runs)) == (3, 0)
    ended = log.page(10)
    assert {(run.status, run.error) for run in ended} == {
        (Status.INTERRUPTED, "it was exported while it ran")
    }
    assert {run.run_id: run.total_seconds for run in ended} == {"0": None, "1": 45.75, "2": 50.0}
    assert [stage.seconds for run in ended for stage in run.stages] == [40.0, 0.0, 35.75]


def test_the_last_of_several_lines_of_a_run_counts(log: RunLog) -> None:
    first, last = report("a", total_seconds=1.0), report("a", total_seconds=2.0)
    assert log.import_lines(lines_of(first, last)) == (1, 0)
    assert log.page(10) == (last,)


def test_a_file_that_windows_saved_is_imported(log: RunLog) -> None:
    lines = b"\xef\xbb\xbf" + lines_of(report("a"), report("b")).getvalue().replace(b"\n", b"\r\n")
    assert log.import_lines(io.BytesIO(lines)) == (2, 0)


BROKEN = {
    "no JSON": "report = substr(report, 1, 100)",
    "empty": "report = ''",
    "no report": "report = '[1, 2]'",
    "of another version": "report = json_set(report, '$.schema', 2)",
    "a status of another version": "report = json_set(report, '$.status', 'paused'), status = 'paused'",
    "a stage of another version": "report = json_set(report, '$.stages[0].name', 'upscale')",
    "a field missing": "report = json_remove(report, '$.device')",
    "a number as text": "report = json_set(report, '$.stages[0].steps', json('[{\"seconds\": \"4\"}]'))",
    "a null for a number": "report = json_set(report, '$.stages[0].compile_seconds', NULL)",
    "a moment that no calendar has": "report = json_set(report, '$.started_unix_seconds', 1e17)",
    "no UTF-8": "report = CAST(x'7b22fffe227d' AS TEXT)",
    "a blob": "report = x'00ff00ff'",
    "every column": "report = 1, writer = x'ff', written_unix_seconds = 'yesterday', pipeline = x'ff'",
    "running": "report = '?', status = 'running', writer = 'nobody', written_unix_seconds = 'yesterday'",
}


def alter(log: RunLog, run_id: str, change: str) -> None:
    with sqlite3.connect(log.path) as database:
        database.execute(f"UPDATE run SET {change} WHERE run_id = ?", (run_id,))
    database.close()


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_a_row_that_cannot_be_read_is_left_out_and_counted(log: RunLog, change: str, tmp_path: Path) -> None:
    log.write([report(run_id, day) for day, run_id in enumerate(("new", "broken", "old", "oldest"))])
    alter(log, "broken", change)
    with RunLog(log.path.parent) as again:
        page = again.read_page(2)
        assert (ids(page.reports), page.unreadable) == (["new", "old"], ("broken",))
        assert ids(again.page(2, before="broken")) == ["old", "oldest"]
        assert ids(again.alike(report("new"))) == ["old", "oldest"]
        with pytest.raises(
            UnreadableRun, match=r"^run broken cannot be read: .*`crystools-tpu runs delete broken`"
        ):
            again.report("broken")
        lines = io.StringIO()
        assert again.export(lines) == (3, 1)
        with RunLog(tmp_path / "other") as other:
            assert other.import_lines(io.BytesIO(lines.getvalue().encode())) == (3, 0)
        assert again.delete(["broken"], running_too=True) == 1
        assert again.read_page(10).unreadable == ()


def test_alike_are_those_of_the_same_workflow_however_many_others_came_since(log: RunLog) -> None:
    def prompt(run_id: str, day: float, workflow: str) -> RunReport:
        params: Params = {"steps": 4, "workflow": workflow}
        return dataclasses.replace(report(run_id, day), pipeline="comfyui", params=params)

    log.write([prompt(f"other{day}", day, "ffff") for day in range(3, 33)])
    log.write([prompt("old", 1, "a1b2"), prompt("older", 2, "a1b2"), report("elsewhere", 1)])
    assert ids(log.alike(prompt("now", 0, "a1b2"))) == ["old", "older"]
    assert ids(log.alike(prompt("now", 0, 'no"body'))) == []


def test_a_run_is_explained_by_its_pipelines_runs_before_it_and_the_last_few_of_any(log: RunLog) -> None:
    log.write([report(f"own{days}", days) for days in (1, 2, 5, 6, 40)])
    log.write(
        [report(f"flux{days}", days + 0.5, pipeline="flux.2", status=Status.FAILED) for days in range(3, 35)]
    )
    log.write([report("own-failed", 5.2, status=Status.FAILED)])
    earlier = ids(log.earlier(report("own2", 2)))
    assert [run_id for run_id in earlier if run_id.startswith("own")] == [
        "own5",
        "own-failed",
        "own6",
        "own40",
    ]
    assert [run_id for run_id in earlier if run_id.startswith("flux")] == [
        f"flux{days}" for days in range(3, 6)
    ]
    assert ids(log.earlier(report("of a file", 7)))[:2] == ["flux7", "flux8"]


def test_runs_are_deleted_all_or_none(log: RunLog) -> None:
    log.write([report("a", 1), report("b", 2), report("c", 3), report("on", 4, status=Status.RUNNING)])
    with pytest.raises(StillRunning, match=r"^still running: on; nothing was deleted$"):
        log.delete(["a", "on"])
    assert log.delete(["a", "b", "nobody"]) == 2
    assert ids(log.page(10)) == ["c", "on"]
    assert log.delete(["on"], running_too=True) == 1
    assert ids(log.page(10)) == ["c"]


def test_many_processes_may_begin_a_history_at_once(tmp_path: Path) -> None:
    failures: list[Exception] = []
    begin = threading.Barrier(8)

    def work(number: int) -> None:
        begin.wait()
        try:
            with RunLog(tmp_path) as log:
                for run in range(5):
                    log.write([report(f"{number}-{run}")])
        except RunLogError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with RunLog(tmp_path) as log:
        assert len(log.page(100)) == 40


def test_a_file_that_is_no_history_is_left_alone_and_said(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("not a database, and somebody may want it" * 100)
    with pytest.raises(RunLogError, match=r"runs\.db.*not a database; move the file away"):
        RunLog(tmp_path)
    assert (tmp_path / "runs.db").read_text().startswith("not a database")


def test_runs_of_before_there_were_forecasts_are_still_there(log: RunLog) -> None:
    log.write([REPORT])
    with sqlite3.connect(log.path) as database:
        database.execute(
            "UPDATE run SET report = json_remove(report, '$.forecast', "
            "'$.stages[0].predicted_step_seconds', '$.stages[0].predicted_hbm_peak_bytes')"
        )
    database.close()
    assert log.page(10) == (REPORT,)


def test_a_newer_layout_is_left_alone_and_said(log: RunLog) -> None:
    with sqlite3.connect(log.path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(RunLogError, match="layout 7, of another version of crystools-tpu: upgrade"):
        RunLog(log.path.parent)


def test_a_database_of_something_else_is_left_alone_and_said(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "runs.db") as database:
        database.execute("CREATE TABLE marathon (runner)")
    database.close()
    with pytest.raises(RunLogError, match=r"runs\.db is a database, but no run history: move the file away"):
        RunLog(tmp_path)


def test_a_history_of_before_there_were_heartbeats_gets_them(log: RunLog) -> None:
    log.write([REPORT])
    with sqlite3.connect(log.path) as database:
        database.executescript("DROP TABLE heartbeat; DROP TABLE silence;")
    database.close()
    with RunLog(log.path.parent) as again:
        again.write([report("new")])
        assert len(again.page(10)) == 2


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunLogError, match="make the folder writable, or name another in CRYSTOOLS_TPU_DATA_DIR"
    ):
        RunLog(tmp_path / "file" / "data")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_the_history_is_its_users_own(log: RunLog) -> None:
    assert stat.S_IMODE(log.path.stat().st_mode) & 0o077 == 0, "prompts are nobody else's business"
