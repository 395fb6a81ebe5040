"""Whether a run still goes on, by what its process writes: never by the time of day."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crystools_exporters.heartbeats import Observer
from crystools_exporters.processes import Process, look_up, this_process
from crystools_exporters.run_log import RunLog, RunLogError
from crystools_tpu.telemetry import RunReport, Status

from .conftest import REPORT, STAGE

ROOT = Path(__file__).parents[2]
STARTED = REPORT.started_unix_seconds


def running(run_id: str = "run") -> RunReport:
    started = STARTED + 30
    stage = dataclasses.replace(STAGE, status=Status.RUNNING, seconds=None, started_unix_seconds=started)
    return dataclasses.replace(
        REPORT, run_id=run_id, status=Status.RUNNING, total_seconds=None, stages=(STAGE, stage)
    )


@dataclass
class Machine:
    """A boot: its monotonic clock, its time of day, and the processes in its containers."""

    name: str
    monotonic: float = 1000.0
    wall: float = STARTED + 41.25
    gone: set[Process] = field(default_factory=set)

    def process(self, container: str = "", pid: int = 7) -> Process:
        return Process(container or self.name, f"boot of {self.name}", container, "image", pid, 5.0)

    def open(self, folder: Path, process: Process) -> RunLog:
        observer = Observer(process, monotonic=lambda: self.monotonic, looked_up=self._look_up)
        return RunLog(folder, clock=lambda: self.wall, observer=observer)

    def runs(self, folder: Path, container: str = "reader") -> dict[str, Status]:
        """What a command there says."""
        with self.open(folder, self.process(container)) as log:
            return {run.run_id: run.status for run in log.page(10)}

    def _look_up(self, process: Process, own: Process) -> bool | None:
        same = (process.clock, process.namespace) == (own.clock, own.namespace)
        return False if same and process in self.gone else None


@pytest.fixture
def machine() -> Machine:
    return Machine("tpu-vm")


@pytest.fixture
def writer(machine: Machine, tmp_path: Path) -> Iterator[RunLog]:
    """A process in a container, with a run in progress."""
    with machine.open(tmp_path, machine.process("writer")) as log:
        log.write([running()])
        yield log


@pytest.mark.usefixtures("writer")
def test_the_run_of_a_killed_container_is_interrupted_a_minute_later_and_can_be_pruned(
    machine: Machine, tmp_path: Path
) -> None:
    machine.monotonic += 59
    assert machine.runs(tmp_path) == {"run": Status.RUNNING}
    machine.monotonic += 2
    with machine.open(tmp_path, machine.process("reader")) as log:
        (run,) = log.page(10)
        assert run.status is Status.INTERRUPTED
        assert run.error == "its process ended without a word; last seen 41.2 s into the run"
        assert [stage.status for stage in run.stages] == [Status.SUCCEEDED, Status.INTERRUPTED]
        assert (run.total_seconds, run.stages[1].seconds) == (41.25, 11.25), "it ends where it was last seen"
        assert run.stages[0] == STAGE
        assert log.prune(max_bytes=0) == 1


@pytest.mark.parametrize("container", ["reader", "writer"], ids=["another container", "the same one"])
def test_a_run_that_goes_on_without_a_change_is_running(
    machine: Machine, writer: RunLog, tmp_path: Path, container: str
) -> None:
    """As in a compile of an hour. The second reader is of the container itself."""
    reader = dataclasses.replace(machine.process(container), pid=8)
    for _ in range(60):
        machine.monotonic += 60
        writer.beat({"run"})
        with machine.open(tmp_path, reader) as log:
            assert [run.status for run in log.page(10)] == [Status.RUNNING]
            assert log.uncertain == 0


@pytest.mark.parametrize("hours", [-30.0, -0.001, 0.001, 5.0])
def test_a_clock_that_is_set_changes_nothing(
    machine: Machine, writer: RunLog, tmp_path: Path, hours: float
) -> None:
    machine.wall += 3600 * hours
    assert machine.runs(tmp_path) == {"run": Status.RUNNING}
    machine.wall -= 2 * 3600 * hours
    writer.beat({"run"})
    machine.wall += 3600 * hours
    assert machine.runs(tmp_path) == {"run": Status.RUNNING}
    machine.monotonic += 61
    assert machine.runs(tmp_path) == {"run": Status.INTERRUPTED}


def test_no_moment_is_said_that_a_set_clock_has_made_nonsense(
    machine: Machine, writer: RunLog, tmp_path: Path
) -> None:
    machine.wall = STARTED - 3600
    writer.write([running()])
    machine.monotonic += 61
    with machine.open(tmp_path, machine.process("reader")) as log:
        (run,) = log.page(10)
        assert run.error == "its process ended without a word"
        assert (run.total_seconds, run.stages[1].seconds) == (None, None)


def test_a_process_that_is_certainly_gone_is_not_waited_for(machine: Machine, tmp_path: Path) -> None:
    killed = machine.process("one", pid=40)
    with machine.open(tmp_path, killed) as log:
        log.write([running()])
    machine.gone.add(killed)
    assert machine.runs(tmp_path, "another") == {"run": Status.RUNNING}, "its numbers mean nothing there"
    assert machine.runs(tmp_path, "one") == {"run": Status.INTERRUPTED}


@pytest.fixture
def elsewhere() -> Machine:
    """A machine that shares the folder; its clocks have nothing to do with the other's."""
    return Machine("laptop", monotonic=50.0, wall=STARTED - 7200)


def test_a_run_of_another_machine_is_running_as_long_as_its_heartbeat_changes(
    machine: Machine, elsewhere: Machine, writer: RunLog, tmp_path: Path
) -> None:
    with elsewhere.open(tmp_path, elsewhere.process()) as log:
        assert log.uncertain == 1, "it was seen for the first time"
        for _ in range(60):
            elsewhere.monotonic += 59
            machine.monotonic += 2
            writer.beat({"run"})
            log.mark_interrupted()
            assert [run.status for run in log.page(10)] == [Status.RUNNING]
            assert log.uncertain == 0
        elsewhere.monotonic += 59
        log.mark_interrupted()
        assert (log.page(10)[0].status, log.uncertain) == (Status.RUNNING, 1)
        elsewhere.monotonic += 2
        log.mark_interrupted()
        assert (log.page(10)[0].status, log.uncertain) == (Status.INTERRUPTED, 0)


@pytest.mark.usefixtures("writer")
def test_commands_on_another_machine_remember_what_the_one_before_saw(
    elsewhere: Machine, tmp_path: Path
) -> None:
    third = Machine("desk", monotonic=90_000.0)
    assert elsewhere.runs(tmp_path) == {"run": Status.RUNNING}
    elsewhere.monotonic += 40
    assert third.runs(tmp_path) == {"run": Status.RUNNING}
    assert elsewhere.runs(tmp_path) == {"run": Status.RUNNING}
    third.monotonic += 40
    assert third.runs(tmp_path) == {"run": Status.RUNNING}, "each counts by its own clock"
    elsewhere.monotonic += 21
    assert elsewhere.runs(tmp_path) == {"run": Status.INTERRUPTED}


@pytest.mark.usefixtures("writer")
def test_the_same_machine_after_a_reboot_is_another(machine: Machine, tmp_path: Path) -> None:
    rebooted = dataclasses.replace(machine, name="tpu-vm again", monotonic=2.0)
    assert rebooted.runs(tmp_path, "writer") == {"run": Status.RUNNING}
    rebooted.monotonic += 61
    assert rebooted.runs(tmp_path, "writer") == {"run": Status.INTERRUPTED}


def test_whoever_was_taken_for_gone_and_goes_on_is_told(
    machine: Machine, writer: RunLog, tmp_path: Path
) -> None:
    """A suspended machine, a frozen container, a disk that was full."""
    writer.write([running("other")])
    machine.monotonic += 3600
    assert machine.runs(tmp_path) == {"run": Status.INTERRUPTED, "other": Status.INTERRUPTED}
    assert writer.beat({"run"}) == ("run",)
    writer.write([running()])
    assert writer.beat({"run"}) == ()
    assert machine.runs(tmp_path) == {"run": Status.RUNNING, "other": Status.INTERRUPTED}


def test_a_heartbeat_that_comes_while_it_is_judged_counts(
    machine: Machine, writer: RunLog, tmp_path: Path
) -> None:
    machine.monotonic += 61

    class Slow(Observer):
        def judge(self, *arguments: object) -> object:  # type: ignore[override]
            life = super().judge(*arguments)  # type: ignore[arg-type]
            writer.beat({"run"})
            return life

    reader = Slow(machine.process("reader"), monotonic=lambda: machine.monotonic)
    with RunLog(tmp_path, observer=reader) as log:
        assert log.page(10)[0].status is Status.RUNNING


@pytest.mark.usefixtures("writer")
def test_whoever_may_only_read_knows_it_too(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise RunLogError("attempt to write a readonly database")

    monkeypatch.setattr(RunLog, "_mark", read_only)
    machine.monotonic += 61
    with machine.open(tmp_path, machine.process("reader")) as log:
        (run,) = log.page(10)
        assert (run.status, log.report("run")) == (Status.INTERRUPTED, run)
        assert (run.total_seconds, run.stages[1].seconds) == (41.25, 11.25)
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        assert database.execute("SELECT status FROM run").fetchall() == [("running",)]


@pytest.mark.usefixtures("writer")
def test_heartbeats_are_forgotten_with_the_runs_that_they_were_of(
    machine: Machine, elsewhere: Machine, tmp_path: Path
) -> None:
    elsewhere.runs(tmp_path)
    machine.monotonic += 61
    machine.runs(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        assert database.execute(
            "SELECT (SELECT COUNT(*) FROM heartbeat), COUNT(*) FROM silence"
        ).fetchall() == [(0, 0)]


def test_a_run_by_a_version_without_heartbeats_is_given_a_day(machine: Machine, tmp_path: Path) -> None:
    with machine.open(tmp_path, machine.process()) as log:
        log.write([running()])
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as database:
        database.execute("UPDATE run SET writer = 'some host 1 1700000000.25'")
    for hours in (0, 12, 11.9):
        machine.monotonic += 3600 * hours
        assert machine.runs(tmp_path) == {"run": Status.RUNNING}
    machine.monotonic += 3600
    assert machine.runs(tmp_path) == {"run": Status.INTERRUPTED}


CHILD = """
import sys, time
from pathlib import Path
from crystools_exporters.run_log import RunLog
from tests.exporters.test_heartbeats import running

with RunLog(Path(sys.argv[1])) as log:
    log.write([running()])
    print("written", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def child(folder: Path, *before: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has written its run."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "exporters"))
    command = [*before, sys.executable, "-c", CHILD, str(folder)]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "written\n"
            yield process
        finally:
            process.kill()


def statuses(folder: Path, seconds_later: float = 0.0) -> list[Status]:
    observer = Observer(this_process(), monotonic=lambda: time.monotonic() + seconds_later)
    with RunLog(folder, observer=observer) as log:
        return [run.status for run in log.page(10)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_a_process_that_is_stopped_may_go_on_and_one_that_was_killed_will_not(tmp_path: Path) -> None:
    with child(tmp_path) as process:
        assert statuses(tmp_path) == [Status.RUNNING]
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert statuses(tmp_path, seconds_later=3600) == [Status.RUNNING]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie until somebody asks
        assert statuses(tmp_path) == [Status.INTERRUPTED]


UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child")


def namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not namespaces_work(), reason="this system permits no namespace of processes")
def test_a_real_container_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    """In it the process has number 1, or 2, which is somebody else here."""
    with child(tmp_path, *UNSHARE) as process:
        assert statuses(tmp_path) == [Status.RUNNING]
        assert statuses(tmp_path, seconds_later=50) == [Status.RUNNING]
        process.kill()
        process.wait()
        assert statuses(tmp_path) == [Status.RUNNING], "nobody here can know yet"
        assert statuses(tmp_path, seconds_later=70) == [Status.INTERRUPTED]


def test_a_process_is_known_by_more_than_its_number() -> None:
    me = this_process()
    assert Process.from_text(me.to_text()) == me
    assert Process.from_text("host of before 12 1700000000.25") is None
    assert Process.from_text("") is None
    assert look_up(me, me) is None
    became = dataclasses.replace(me, image="what it was before it replaced itself")
    assert look_up(became, me) is (False if me.namespace else None)
    for other in ({"clock": "another boot"}, {"namespace": "another container"}):
        assert look_up(dataclasses.replace(me, pid=2**22 + 1, **other), me) is None  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_a_number_that_the_system_gave_to_another_process_is_not_that_process() -> None:
    me = this_process()
    assert look_up(dataclasses.replace(me, pid=os.getppid()), me) is False, "that one began earlier"
    assert look_up(dataclasses.replace(me, pid=2**22 + 1), me) is False
