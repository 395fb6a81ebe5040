"""How a command ends that is told to, whoever tells it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ENDLESS = Path(__file__).with_name("endless.py")


@contextmanager
def started(
    folder: Path, what: str, said: str, *, before: Sequence[str] = (), **how: Any
) -> Iterator[subprocess.Popen[str]]:
    """The command, once it has said so."""
    (folder / "out").mkdir()
    path = os.pathsep.join(str(ROOT / part) for part in (".", "pipelines", "exporters"))
    files = ("--out", "video.mp4"), ("--report", "report.json"), ("--textfile", "run.prom")
    command = [*before, sys.executable, str(ENDLESS), what, *(part for pair in files for part in pair)]
    with subprocess.Popen(
        command,
        cwd=folder / "out",
        env={**os.environ, "PYTHONPATH": path, "CRYSTOOLS_TPU_DATA_DIR": str(folder / "data")},
        text=True,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
    ) as process:
        try:
            if process.stdout is not None:
                while said not in (line := process.stdout.readline()):
                    assert line, process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()


def assert_cancelled(folder: Path, error: str) -> None:
    """The report and the metrics are there, and nothing else."""
    out = folder / "out"
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "run.prom"]
    report = json.loads((out / "report.json").read_text())
    assert (report["status"], report["error"]) == ("cancelled", error)
    assert report["stages"][-1]["status"] == "cancelled"
    counted = 'runs_total{pipeline="wan2.1-t2v",status="cancelled",textfile="run"} 1.0\n'
    assert counted in (out / "run.prom").read_text()


def test_a_signal_between_steps_cancels_the_run(tmp_path: Path) -> None:
    with started(tmp_path, "steps", "step 20/200") as process:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "crystools-tpu: cancelled\n")
    assert_cancelled(tmp_path, "Terminated: SIGTERM")


def test_a_signal_while_a_file_is_written_leaves_none_of_it(tmp_path: Path) -> None:
    with started(tmp_path, "save", "half written") as process:
        assert len([*(tmp_path / "out").iterdir()]) == 1
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    assert_cancelled(tmp_path, "Terminated: SIGHUP")


def test_a_run_that_does_not_come_back_to_python_is_cancelled_for_all_that(tmp_path: Path) -> None:
    """Some seconds after the signal: before `docker stop` would kill it."""
    with started(tmp_path, "compute", "computing") as process:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "crystools-tpu: cancelled\n")
    assert_cancelled(tmp_path, "Terminated: SIGTERM")


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    with started(tmp_path, "dawdle", "waiting") as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        while "ending" not in (line := process.stdout.readline()):
            assert line, "it ended before the second"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.mark.usefixtures("interruptible")
def test_a_signal_that_comes_twice_at_once_is_one(tmp_path: Path) -> None:
    with started(tmp_path, "steps", "step 20/200") as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert_cancelled(tmp_path, "KeyboardInterrupt")


def test_a_terminal_that_is_closed_cancels_the_run(tmp_path: Path) -> None:
    """Nothing can be printed any more, and the shell hands the signal on."""
    terminal, own = pty.openpty()
    about: dict[str, Any] = {
        "stdin": own,
        "stdout": own,
        "stderr": own,
        "before": ["setsid", "--ctty", "--wait"],
    }
    with started(tmp_path, "save", "", **about) as process:
        os.close(own)
        shown = b""
        while b"half written" not in shown:
            shown += os.read(terminal, 1000)
        os.close(terminal)
        assert process.wait(60) == 129
    assert_cancelled(tmp_path, "Terminated: SIGHUP")


def test_nohup_is_heeded(tmp_path: Path) -> None:
    with started(tmp_path, "steps", "step 20/200", before=["nohup"]) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        while "step 100/200" not in (line := process.stdout.readline()):
            assert line, "it did not go on"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert_cancelled(tmp_path, "Terminated: SIGTERM")


def test_as_the_first_process_of_a_container_it_ends_too(tmp_path: Path) -> None:
    """Which the system protects from all signals that it does not handle itself."""
    contained = ["unshare", "--fork", "--pid", "--mount-proc"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*contained, "true"], capture_output=True).returncode
    ):
        pytest.skip("no namespace can be made here (unshare, as root): process 1 is NOT tested")
    with started(tmp_path, "steps", "step 20/200", before=contained) as process:
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert process.wait(60) == 143
    assert_cancelled(tmp_path, "Terminated: SIGTERM")
