"""The history is written as runs go, and nothing that happens to it reaches a run."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crystools_exporters import run_log_writer
from crystools_exporters.exporting import KeptRuns, exporting
from crystools_exporters.run_log import RunLog, RunLogError
from crystools_exporters.run_log_writer import RunLogWriter
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunFinished, RunReport, StageName, Status

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 20.0


@dataclass
class Bench:
    """A process's telemetry, and the folder of its history."""

    folder: Path
    bus: telemetry.Bus = field(default_factory=telemetry.Bus)
    history: telemetry.History = field(default_factory=telemetry.History)

    @contextlib.contextmanager
    def writing(self, open_log: Callable[[], RunLog] | None = None) -> Iterator[RunLogWriter]:
        writer = RunLogWriter(
            open_log or (lambda: RunLog(self.folder)),
            bus=self.bus,
            history=self.history,
            interval_seconds=0.01,
        )
        try:
            yield writer
        finally:
            writer.close()

    def run(self) -> contextlib.AbstractContextManager[telemetry.Run]:
        return telemetry.run("wan2.1-t2v", bus=self.bus, history=self.history)

    def whole_run(self, steps: int = 3) -> RunReport:
        with self.run() as run, run.stage(StageName.DENOISE, steps=steps) as stage:
            for _ in range(steps):
                stage.step(None)
        return run.report

    def kept(self) -> tuple[RunReport, ...]:
        with RunLog(self.folder) as log:
            return log.page(1000)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "data")


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_a_run_in_progress_is_in_the_history_with_the_steps_so_far(bench: Bench) -> None:
    with bench.writing(), bench.run() as run, run.stage(StageName.DENOISE, steps=3) as stage:
        for _ in range(2):
            stage.step(None)
        eventually(lambda: [len(s.steps) for r in bench.kept() for s in r.stages] == [2])
        (kept,) = bench.kept()
        assert (kept.run_id, kept.status, kept.total_seconds) == (run.run_id, Status.RUNNING, None)


def test_a_run_in_progress_when_the_writing_begins_is_written_on(bench: Bench) -> None:
    with bench.run() as run:
        with run.stage("load"):
            pass
        with bench.writing():
            pass
        (begun,) = bench.kept()
        assert (begun.status, [stage.name for stage in begun.stages]) == (Status.RUNNING, ["load"])
        with bench.writing() as writer:
            assert writer._in_progress == {run.run_id}, "it has a heartbeat"
            with run.stage("save"):
                pass
    (kept,) = bench.kept()
    assert (kept.status, [stage.name for stage in kept.stages]) == (Status.RUNNING, ["load", "save"])


def test_a_run_that_is_left_out_is_not_written_and_takes_no_thread(bench: Bench) -> None:
    left_out = {"another"}
    with bench.run() as run:
        left_out.add(run.run_id)
        writer = RunLogWriter(
            lambda: RunLog(bench.folder), bus=bench.bus, history=bench.history, left_out=left_out
        )
        with run.stage(StageName.DENOISE) as stage:
            stage.step(None)
    writer.close()
    assert writer._thread is None
    assert not bench.folder.exists()


def test_what_is_closed_has_written_everything(bench: Bench) -> None:
    with bench.writing():
        reports = [bench.whole_run() for _ in range(50)]
    assert bench.kept() == tuple(reversed(reports))


def test_a_failed_run_is_kept_with_its_reason(bench: Bench) -> None:
    with bench.writing(), pytest.raises(ValueError, match="too large"), bench.run():
        raise ValueError("too large")
    (kept,) = bench.kept()
    assert (kept.status, kept.error) == (Status.FAILED, "ValueError: too large")


def test_a_locked_database_delays_no_run_and_is_written_once_it_is_free(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    RunLog(bench.folder).close()
    lock = sqlite3.connect(bench.folder / "runs.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    attempted = threading.Event()

    class Impatient(RunLog):
        def write(self, reports: object) -> None:
            self._database.execute("PRAGMA busy_timeout = 1")
            try:
                super().write(reports)  # type: ignore[arg-type]
            finally:
                attempted.set()

    with bench.writing(lambda: Impatient(bench.folder)):
        report = bench.whole_run()  # ends although nothing can be written
        assert report.status is Status.SUCCEEDED
        assert attempted.wait(PATIENCE_SECONDS)
        eventually(lambda: "another process holds it" in caplog.text)
        lock.rollback()
    lock.close()
    assert bench.kept() == (report,)


class Counting(RunLog):
    """Notes each heartbeat."""

    def __init__(self, folder: Path, beats: list[frozenset[str]]) -> None:
        super().__init__(folder)
        self._beats = beats

    def beat(self, running: Collection[str]) -> tuple[str, ...]:
        self._beats.append(frozenset(running))
        return super().beat(running)


def test_a_run_in_which_nothing_happens_has_a_heartbeat_and_takes_itself_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a compile of minutes, of a process that a reader took for gone."""
    monkeypatch.setattr(run_log_writer, "BEAT_SECONDS", 0.01)
    beats: list[frozenset[str]] = []
    with bench.writing(lambda: Counting(bench.folder, beats)) as writer, bench.run() as run:
        eventually(lambda: len(beats) >= 5)
        with contextlib.closing(sqlite3.connect(bench.folder / "runs.db", isolation_level=None)) as database:
            database.execute("UPDATE run SET status = 'interrupted', report = '{}'")
        eventually(lambda: [kept.status for kept in bench.kept()] == [Status.RUNNING])
        assert bench.kept()[0].run_id == run.run_id
    assert [kept.status for kept in bench.kept()] == [Status.SUCCEEDED]
    assert writer._in_progress == set(), "and whoever has no run in progress writes nothing"


def test_a_report_that_takes_long_to_write_costs_no_heartbeat(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log_writer, "BEAT_SECONDS", 0.01)
    beats: list[frozenset[str]] = []
    monkeypatch.setattr(run_log_writer, "_MOST_OF_THE_CPU", 1e-9)  # it rests for days after a write
    with bench.writing(lambda: Counting(bench.folder, beats)), bench.run():
        eventually(lambda: len(beats) >= 5)
    assert [kept.status for kept in bench.kept()] == [Status.SUCCEEDED]


def test_a_history_that_could_only_be_read_is_opened_anew(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class ReadOnly(RunLog):
        read_only = True

        def write(self, reports: object) -> None:
            raise RunLogError("it is full")

    logs = [ReadOnly(bench.folder), RunLog(bench.folder)]
    with bench.writing(lambda: logs.pop(0)):
        report = bench.whole_run()
        eventually(lambda: "it is full" in caplog.text)
    assert bench.kept() == (report,)
    assert logs == []


def broken(error: str) -> Callable[[], RunLog]:
    def open_log() -> RunLog:
        raise RunLogError(error)

    return open_log


def test_a_read_only_directory_is_one_warning_and_harms_no_run(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.folder.parent.joinpath("file").write_text("")
    blocked = bench.folder.parent / "file" / "data"  # even root cannot write below a file
    with bench.writing(lambda: RunLog(blocked)):
        reports = [bench.whole_run() for _ in range(5)]
    assert {report.status for report in reports} == {Status.SUCCEEDED}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "make the folder writable" in caplog.text
    assert "Runs go on" in caplog.text


def test_a_full_disk_is_one_warning_and_what_it_refused_is_written_once_there_is_room(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(RunLog):
        full = True

        def write(self, reports: object) -> None:
            (pages,) = self._rows("PRAGMA page_count")[0]
            # SQLite's own limit gives the very error of a full disk, SQLITE_FULL.
            self._rows(f"PRAGMA max_page_count = {pages if self.full else 1_000_000}")
            super().write(reports)  # type: ignore[arg-type]

    with bench.writing(lambda: Full(bench.folder)):
        reports = [bench.whole_run(steps=500) for _ in range(3)]
        eventually(lambda: "disk is full" in caplog.text)
        assert "free some space on that disk" in caplog.text
        Full.full = False
    assert bench.kept() == tuple(reversed(reports))
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_history_that_fails_for_long_keeps_the_last_hundred_runs(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with bench.writing(broken("the history is gone")) as writer:
        for _ in range(130):
            bench.whole_run(steps=1)
        eventually(lambda: "the history is gone" in caplog.text)
    assert len(writer._ended) == 100


CHILD = """
import sys, time
from crystools_exporters.exporting import exporting
from crystools_tpu import telemetry

with exporting(), telemetry.run("wan2.1-t2v") as run:
    with run.stage("load"):
        pass
    with run.stage("denoise", steps=1000) as stage:
        for number in range(1000):
            time.sleep(0.02)  # the step's own work
            stage.step(None)
            print(number, time.time(), flush=True)
"""


@dataclass(frozen=True)
class Killed:
    """What a run that was killed had done, and what the history has of it."""

    done_at: list[float]
    kept: RunReport | None

    @property
    def lost_seconds(self) -> float:
        """From the last step that was kept, or from the first one done, to the last that was done."""
        kept_steps = len(self.kept.stages[1].steps) if self.kept and len(self.kept.stages) > 1 else 0
        return self.done_at[-1] - self.done_at[max(kept_steps - 1, 0)]


def killed_after(seconds: float, folder: Path) -> Killed:
    """A run in a process that is killed with SIGKILL so long after its first step."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "exporters"))
    environ = {**os.environ, "PYTHONPATH": path, "CRYSTOOLS_TPU_DATA_DIR": str(folder)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], env=environ, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(seconds)  # the random moment itself
        child.send_signal(signal.SIGKILL)
        lines = [first, *child.stdout.read().splitlines()]
    done_at = [float(line.split()[1]) for line in lines if len(line.split()) == 2]
    with RunLog(folder) as log:
        runs = log.page(10)
    return Killed(done_at, runs[0] if runs else None)


def test_a_run_killed_at_fifty_random_moments_is_interrupted_and_loses_its_last_second_at_most(
    tmp_path: Path,
) -> None:
    moments = [random.Random(n).uniform(0.0, 2.0) for n in range(50)]
    with ThreadPoolExecutor(10) as pool:
        runs = list(pool.map(killed_after, moments, [tmp_path / str(number) for number in range(50)]))
    # A run that was killed within its first moments may be lost to the history as a whole.
    assert {run.kept.status for run in runs if run.kept} == {Status.INTERRUPTED}
    assert max(run.lost_seconds for run in runs) <= 1.0


def test_the_environment_turns_the_history_off(tmp_path: Path) -> None:
    environ = {"CRYSTOOLS_TPU_DATA_DIR": str(tmp_path / "data"), "CRYSTOOLS_TPU_HISTORY": "off"}
    with exporting(environ, bus=telemetry.Bus(), history=telemetry.History()) as kept:
        assert kept is None
    assert list(tmp_path.iterdir()) == []


def test_the_environment_says_how_much_is_kept(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with bench.writing():
        old = bench.whole_run()
    environ = {"CRYSTOOLS_TPU_DATA_DIR": str(bench.folder), "CRYSTOOLS_TPU_HISTORY": "0h"}
    with exporting(environ, bus=bench.bus, history=bench.history):
        new = bench.whole_run()
    assert old.run_id not in [run.run_id for run in bench.kept()]
    assert new.run_id in [run.run_id for run in bench.kept()]
    with exporting({**environ, "CRYSTOOLS_TPU_HISTORY": "much"}, bus=bench.bus, history=bench.history):
        pass
    assert "CRYSTOOLS_TPU_HISTORY: 'much' is not understood: an age is a number of hours" in caplog.text


def test_a_server_reads_the_history_of_all_processes(bench: Bench) -> None:
    with bench.writing():
        first, second = bench.whole_run(), bench.whole_run()
    kept = KeptRuns(bench.folder)
    assert kept.page(10) == ((second, first), ())
    assert kept.page(10, before=second.run_id) == ((first,), ())
    assert kept.report(first.run_id) == first
    assert kept.alike(first) == (second,)
    with contextlib.closing(sqlite3.connect(bench.folder / "runs.db", isolation_level=None)) as database:
        database.execute("UPDATE run SET report = 'broken' WHERE run_id = ?", (second.run_id,))
    assert kept.page(10) == ((first,), (second.run_id,))
    assert kept.report(second.run_id) is None
    kept.close()


def test_a_server_whose_history_cannot_be_read_has_none_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs.db").write_text("no history" * 1000)
    kept = KeptRuns(tmp_path)
    assert (kept.page(10), kept.report("x"), kept.page(10)) == (((), ()), None, ((), ()))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


class Picky(RunLog):
    """A history that cannot write every report, as if one held what has no form in JSON."""

    refused: Callable[[RunReport], bool] = staticmethod(lambda report: False)
    fault: Exception = RecursionError("maximum recursion depth exceeded")

    def write(self, reports: Sequence[RunReport]) -> None:
        if any(self.refused(report) for report in reports):
            raise self.fault
        super().write(reports)


def picky(bench: Bench, refused: Callable[[RunReport], bool], fault: Exception) -> Callable[[], RunLog]:
    def open_log() -> RunLog:
        log = Picky(bench.folder)
        log.refused, log.fault = refused, fault
        return log

    return open_log


def fault_of_a_row() -> RunLogError:
    error = RunLogError("the run history cannot be used")
    error.__cause__ = sqlite3.InterfaceError("Error binding parameter 2 - probably unsupported type.")
    return error


@pytest.mark.parametrize(
    "fault",
    [RecursionError("too deep"), ValueError("Circular reference detected"), MemoryError(), fault_of_a_row()],
    ids=lambda fault: type(fault).__name__,
)
def test_a_report_that_cannot_be_written_is_kept_bare_and_the_others_whole(
    bench: Bench, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    odd: list[str] = []
    with bench.writing(picky(bench, lambda run: run.run_id in odd and run.stages != (), fault)):
        first = bench.whole_run()
        eventually(lambda: bench.folder.exists() and len(bench.kept()) == 1)
        with bench.run() as run:
            odd.append(run.run_id)
            for name in ("load", "save"):
                with run.stage(name):
                    pass
        last = bench.whole_run()
        eventually(lambda: [kept.status for kept in bench.kept()] == ["succeeded"] * 3)
    kept = {report.run_id: report for report in bench.kept()}
    assert (kept[first.run_id], kept[last.run_id]) == (first, last)
    assert kept[odd[0]] == dataclasses.replace(run.report, stages=(), params={}, device=None, forecast=None)
    (warning,) = caplog.messages
    assert warning.startswith(
        f"run {odd[0]} cannot be written to the history and is kept without its stages and parameters: "
    )


def test_a_report_of_which_nothing_can_be_written_is_lost_with_one_warning_and_no_other_is(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with bench.writing(picky(bench, lambda run: run.pipeline == "odd", TypeError("no form"))):
        with telemetry.run("odd", bus=bench.bus, history=bench.history) as odd, odd.stage("save"):
            pass
        whole = [bench.whole_run(), bench.whole_run()]
        eventually(lambda: bench.folder.exists() and len(bench.kept()) == 2)
    assert {report.run_id for report in bench.kept()} == {report.run_id for report in whole}
    assert caplog.messages == [
        f"run {odd.run_id} cannot be written to the history and is lost to it: TypeError: no form"
    ]


def test_a_history_that_cannot_be_opened_by_any_error_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("crystools_exporters.run_log_writer._FIRST_RETRY_SECONDS", 0.001)
    errors = iter([RuntimeError("Could not determine home directory."), KeyError("uid")])

    def open_log() -> RunLog:
        for error in errors:
            raise error
        return RunLog(bench.folder)

    with bench.writing(open_log):
        report = bench.whole_run()
        eventually(lambda: bench.folder.exists() and bench.kept() == (report,))
    assert caplog.messages[0] == (
        "RuntimeError: Could not determine home directory. Runs go on, and are written once they can be"
    )


def test_a_run_in_progress_that_cannot_be_read_is_kept_when_it_ends(bench: Bench) -> None:
    class Unreadable(telemetry.History):
        def report(self, run_id: str) -> RunReport | None:
            raise RuntimeError("dictionary changed size during iteration")

    bench.history = Unreadable()
    with bench.writing():
        report = bench.whole_run()
    assert bench.kept() == (report,)


def test_without_a_thread_to_spare_the_next_event_tries_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with bench.writing():
        with monkeypatch.context() as scarce:
            scarce.setattr(threading.Thread, "start", no_thread)
            first = bench.whole_run(steps=0)
        second = bench.whole_run()
    assert bench.kept() == (second, first)


def test_a_run_that_ends_at_no_known_time_is_no_end_of_the_history(bench: Bench) -> None:
    """A time that is no number is none to SQLite, whose column demands one."""
    with bench.writing():
        odd = dataclasses.replace(bench.whole_run(), run_id="odd", started_unix_seconds=float("nan"))
        bench.bus.publish(RunFinished(odd))
        last = bench.whole_run()
        eventually(lambda: last in bench.kept())
