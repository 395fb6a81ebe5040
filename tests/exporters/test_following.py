"""What other processes write into the history is told while they write it, and nothing else is."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from crystools_exporters import run_log_file
from crystools_exporters.exporting import KeptRuns
from crystools_exporters.following import JUDGE_SECONDS, Changes, Following
from crystools_exporters.heartbeats import Observer
from crystools_exporters.processes import Process
from crystools_exporters.run_log import RunLog, RunLogError
from crystools_tpu.telemetry import RunReport, Status

from .conftest import REPORT, STAGE
from .test_heartbeats import Machine

PATIENCE_SECONDS = 20.0


def run(run_id: str, seconds_later: float = 0.0, **changes: object) -> RunReport:
    """A run that ended, unless the changes say otherwise; it began so long after the first."""
    started = REPORT.started_unix_seconds + seconds_later
    return dataclasses.replace(REPORT, run_id=run_id, started_unix_seconds=started, **changes)  # type: ignore[arg-type]


def running(run_id: str, steps: int = 0, seconds_later: float = 0.0) -> RunReport:
    stage = dataclasses.replace(STAGE, status=Status.RUNNING, seconds=None, steps_total=9, error=f"{steps}")
    return run(run_id, seconds_later, status=Status.RUNNING, total_seconds=None, stages=(stage,))


@dataclasses.dataclass
class Watcher:
    """A server on the machine, which looks when the test says so."""

    machine: Machine
    log: RunLog
    changes: Changes

    def sees(self) -> list[RunReport]:
        return list(self.changes.read(self.log))

    def ids(self) -> list[str]:
        return [report.run_id for report in self.sees()]


@pytest.fixture
def machine() -> Machine:
    return Machine("tpu-vm")


@pytest.fixture
def watcher(machine: Machine, tmp_path: Path) -> Iterator[Watcher]:
    with machine.open(tmp_path, machine.process("server", pid=1)) as log:
        yield Watcher(machine, log, Changes(3, monotonic=lambda: machine.monotonic))


@pytest.fixture
def generate(machine: Machine, tmp_path: Path) -> Iterator[RunLog]:
    with machine.open(tmp_path, machine.process("server", pid=2)) as log:
        yield log


@pytest.fixture
def script(machine: Machine, tmp_path: Path) -> Iterator[RunLog]:
    with machine.open(tmp_path, machine.process("server", pid=3)) as log:
        yield log


def test_runs_of_two_processes_are_seen_to_come_go_on_and_end(
    watcher: Watcher, generate: RunLog, script: RunLog
) -> None:
    assert watcher.sees() == []
    generate.write([running("a")])
    script.write([running("b", seconds_later=1)])
    assert watcher.sees() == [running("a"), running("b", seconds_later=1)]
    assert watcher.sees() == []
    watcher.machine.wall += 0.5
    script.write([running("b", 1, 1)])
    assert watcher.sees() == [running("b", 1, 1)]
    script.write([run("b", 1)])
    watcher.machine.wall += 0.5
    generate.write([running("a", 1)])
    assert watcher.sees() == [running("a", 1), run("b", 1)]
    generate.write([run("a")])
    assert watcher.sees() == [run("a")]


def test_at_first_the_newest_runs_are_seen_and_an_older_one_that_goes_on(
    watcher: Watcher, generate: RunLog
) -> None:
    generate.write([running("long"), *(run(f"run{number}", 1 + number) for number in range(5))])
    assert watcher.ids() == ["long", "run2", "run3", "run4"]
    generate.write([run("long")])
    assert watcher.ids() == ["long"]
    watcher.machine.wall += 1
    generate.write([run("run0", 1)])
    assert watcher.ids() == [], "an old run that was imported, say, is no news"


def test_runs_of_this_process_are_not_seen_a_second_time(watcher: Watcher, generate: RunLog) -> None:
    watcher.log.write([running("own")])
    generate.write([running("another")])
    assert watcher.ids() == ["another"]


def test_nothing_is_read_as_long_as_nobody_writes(
    watcher: Watcher, generate: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate.write([running("a")])
    watcher.sees()

    def read(*_: object) -> None:
        raise AssertionError("the file was looked into")

    with monkeypatch.context() as patch:
        for method in ("others", "report", "mark_interrupted"):
            patch.setattr(RunLog, method, read)
        for _ in range(7):
            watcher.machine.monotonic += 0.25
            assert watcher.sees() == []
    generate.beat(["a"])
    assert watcher.sees() == [], "a heartbeat is no change"


def test_a_run_whose_process_was_killed_is_seen_as_such_two_seconds_later(
    watcher: Watcher, generate: RunLog
) -> None:
    generate.write([running("a")])
    assert watcher.ids() == ["a"]
    watcher.machine.gone.add(watcher.machine.process("server", pid=2))
    watcher.machine.monotonic += JUDGE_SECONDS - 0.1
    assert watcher.sees() == []
    watcher.machine.monotonic += 0.2
    (ended,) = watcher.sees()
    assert (ended.run_id, ended.status, ended.total_seconds) == ("a", Status.INTERRUPTED, 41.25)
    watcher.machine.monotonic += JUDGE_SECONDS
    assert watcher.sees() == []
    watcher.machine.wall += 5
    generate.write([running("a", 2)])
    assert watcher.sees() == [running("a", 2)], "it was but asleep"


def test_it_is_seen_where_it_cannot_be_marked(
    watcher: Watcher, generate: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise RunLogError("attempt to write a readonly database")

    generate.write([running("a")])
    assert watcher.ids() == ["a"]
    monkeypatch.setattr(RunLog, "_mark", read_only)
    watcher.machine.gone.add(watcher.machine.process("server", pid=2))
    for expected in ([Status.INTERRUPTED], []):
        watcher.machine.monotonic += JUDGE_SECONDS
        assert [report.status for report in watcher.sees()] == expected


def test_a_run_that_cannot_be_read_is_passed_over_once_and_seen_when_it_can(
    watcher: Watcher, generate: RunLog, tmp_path: Path
) -> None:
    generate.write([running("a"), running("b", seconds_later=1)])
    with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as database:
        database.execute("UPDATE run SET report = '{' WHERE run_id = 'a'")
    assert watcher.ids() == ["b"]
    watcher.machine.wall += 0.5
    generate.write([running("a", 1)])
    assert watcher.ids() == ["a"]


def test_what_was_seen_while_the_file_was_locked_is_seen_later(
    watcher: Watcher, generate: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise RunLogError("database is locked")

    generate.write([running("a"), running("b", seconds_later=1)])
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "report", locked)
        with pytest.raises(RunLogError):
            watcher.sees()
    assert watcher.ids() == ["a", "b"]


def test_deleted_runs_are_no_change(watcher: Watcher, generate: RunLog) -> None:
    generate.write([run("a"), run("b", 1)])
    watcher.sees()
    generate.delete(["b"])
    assert watcher.sees() == []
    generate.write([run("c", 2)])
    assert watcher.ids() == ["c"]


def test_what_fails_is_said_once_and_the_next_look_is_another(caplog: pytest.LogCaptureFixture) -> None:
    told: SimpleQueue[str] = SimpleQueue()
    looks: Iterator[Callable[[], list[RunReport]]] = iter(
        [broken, broken, lambda: [run("unwelcome"), run("a")], lambda: [run("unwelcome"), run("b")]]
    )

    def tell(report: RunReport) -> None:
        if report.run_id == "unwelcome":
            raise RuntimeError("no socket")
        told.put(report.run_id)

    following = Following(lambda: next(looks, list)(), tell, interval_seconds=0.001)
    assert [told.get(timeout=PATIENCE_SECONDS) for _ in range(2)] == ["a", "b"]
    following.stop()
    following.join(PATIENCE_SECONDS)
    assert not following.goes_on
    assert caplog.messages == [
        "the runs of other processes cannot be followed: KeyError: 'gone'",
        "a run of another process could not be told: RuntimeError: no socket",
    ]


def broken() -> list[RunReport]:
    raise KeyError("gone")


@contextmanager
def followed(folder: Path) -> Iterator[SimpleQueue[RunReport]]:
    """The changes that a server's thread sees."""
    told: SimpleQueue[RunReport] = SimpleQueue()
    kept = KeptRuns(folder)
    stop = kept.follow(20, told.put)
    try:
        yield told
    finally:
        stop()
        kept.close()
    assert "crystools-tpu-follower" not in [thread.name for thread in threading.enumerate()]


@contextmanager
def another(folder: Path) -> Iterator[RunLog]:
    """The history as a process of another machine writes it."""
    with RunLog(folder, observer=Observer(Process("laptop", "another boot", "", "", 1, 0.0))) as log:
        yield log


def test_a_file_that_is_missing_broken_or_moved_away_is_taken_up_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "runs.db").write_text("no history" * 1000)
    with followed(folder) as told:
        with pytest.raises(Empty):
            told.get(timeout=0.3)
        (folder / "runs.db").unlink()
        with another(folder) as log:
            log.write([run("a")])
            assert told.get(timeout=PATIENCE_SECONDS) == run("a")
        shutil.move(folder, tmp_path / "moved")
        with another(folder) as log:
            log.write([run("b", 1)])
            assert told.get(timeout=PATIENCE_SECONDS) == run("b", 1)
    (warning,) = caplog.messages
    assert "move the file away" in warning


def test_a_history_that_can_only_be_read_is_opened_again_once_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    with another(tmp_path) as log:
        log.write([run("a")])
    with monkeypatch.context() as patch:
        patch.setattr(run_log_file, "_open_for_writing", refuse)
        reader = RunLog(tmp_path)
    with reader:
        assert (reader.read_only, reader.is_outdated) == (True, False)
        with another(tmp_path) as log:
            log.write([run("b", 1)])
            assert (reader.is_outdated, log.is_outdated) == (True, False)
