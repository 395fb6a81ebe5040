"""The history of runs: what is kept, found again, marked, pruned, exported and imported."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystools_exporters.processes import Process, is_alive, this_process
from crystools_exporters.run_log import RunLog, RunLogError
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunReport, Status

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


def running(run_id: str) -> RunReport:
    stage = dataclasses.replace(STAGE, status=Status.RUNNING, seconds=None)
    return report(run_id, 0.5, status=Status.RUNNING, total_seconds=None, stages=(STAGE, stage))


def test_what_a_process_that_is_no_more_left_running_is_interrupted_at_the_next_start(tmp_path: Path) -> None:
    dead = Process(this_process().host, 1, 0.0)
    seen = NOW - 0.5 * DAY_SECONDS + 41.25
    with RunLog(tmp_path, process=dead, clock=lambda: seen) as log:
        log.write([running("killed")])
    with RunLog(tmp_path) as log:
        found = log.report("killed")
        assert found is not None
        assert found.status is Status.INTERRUPTED
        assert found.error == "its process ended without a word; last seen 41.2 s into the run"
        assert [stage.status for stage in found.stages] == [Status.SUCCEEDED, Status.INTERRUPTED]
        assert found.total_seconds is None


def test_what_another_living_process_runs_stays_running(tmp_path: Path) -> None:
    elsewhere = Process("another-host", 1, 0.0)
    with RunLog(tmp_path) as log, RunLog(tmp_path, process=elsewhere) as other:
        log.write([running("mine")])
        other.write([running("theirs")])
        with RunLog(tmp_path) as again:
            assert [run.status for run in again.page(2)] == [Status.RUNNING, Status.RUNNING]


def test_a_number_that_the_system_gave_to_another_process_is_not_that_process() -> None:
    me = this_process()
    assert is_alive(me)
    assert is_alive(Process.from_text(me.to_text()))
    assert not is_alive(dataclasses.replace(me, began_unix_seconds=me.began_unix_seconds - 60))


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


def test_what_is_exported_is_imported_elsewhere_as_it_was(log: RunLog, tmp_path: Path) -> None:
    log.write([report("b", 1), report("a", 2, pipeline="flux.2")])
    lines = io.StringIO()
    assert log.export(lines) == 2
    assert [json.loads(line)["run_id"] for line in lines.getvalue().splitlines()] == ["a", "b"]
    with RunLog(tmp_path / "elsewhere") as other:
        other.write([report("b", 1)])
        assert other.import_lines(lines.getvalue().splitlines(keepends=True)) == (1, 1)
        assert other.page(10) == log.page(10)


def test_only_what_was_asked_for_is_exported(log: RunLog) -> None:
    log.write([report("b", 1), report("a", 2, pipeline="flux.2")])
    lines = io.StringIO()
    assert log.export(lines, pipeline="flux.2") == 1
    assert json.loads(lines.getvalue())["run_id"] == "a"


def test_a_bad_line_is_named_and_nothing_is_imported(log: RunLog) -> None:
    good = json.dumps(telemetry.to_wire(REPORT))
    lacking = json.dumps(
        {name: value for name, value in telemetry.to_wire(REPORT).items() if name != "device"}
    )
    with pytest.raises(RunLogError, match=r"^line 3: report lacks device; nothing was imported$"):
        log.import_lines([good, "\n", lacking])
    assert log.page(10) == ()


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


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunLogError, match="make the folder writable, or name another in CRYSTOOLS_TPU_DATA_DIR"
    ):
        RunLog(tmp_path / "file" / "data")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_the_history_is_its_users_own(log: RunLog) -> None:
    assert stat.S_IMODE(log.path.stat().st_mode) & 0o077 == 0, "prompts are nobody else's business"
