"""Reporting is enough: what a script reports is in the history, as the documents show it, however it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from crystools_exporters.run_log import RunLog
from crystools_tpu.cli import main
from crystools_tpu.telemetry import RunReport, Status

ROOT = Path(__file__).parents[1]

JAX = """
import jax
import jax.numpy as jnp

@jax.jit
def step(latents, i):
    latents = latents * 1.01 + i
    return latents, jnp.isfinite(latents).all()

latents = jnp.zeros(8)
"""

# Without what takes two seconds to import.
NO_JAX = """
import types

jax = types.SimpleNamespace(devices=tuple)
latents = 0
def step(latents, i):
    return latents, None
"""

RAISES = """
    raise RuntimeError("out of paper")
"""

EXITS = """
    import sys
    telemetry.serve()
    sys.exit(3)
"""

CANCELLED = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have had ignored
    signal.raise_signal(signal.SIGINT)
"""

SWITCHED = """
from crystools_tpu import telemetry

telemetry.keep_runs(False)
with telemetry.run("private"):
    telemetry.keep_runs(True)
with telemetry.run("kept") as run, run.stage("load"):
    telemetry.keep_runs(False)
"""

PAGE = """
import json, sys, threading, urllib.request
from crystools_tpu import telemetry

with telemetry.run("before"):
    pass
with telemetry.run("around") as run, run.stage("denoise") as stage:
    stage.step(None)
    with telemetry.serve() as page:
        stage.step(None)
        shown = json.load(urllib.request.urlopen(page.url + "api/runs"))["runs"]
        assert [report["pipeline"] for report in shown] == ["around", "before"], shown
        writers = [thread.name for thread in threading.enumerate() if thread.name == "crystools-tpu-run-log"]
        assert len(writers) == 1, writers
    stage.step(None)
with telemetry.run("after"):
    pass
"""

FORKS = """
import multiprocessing, os, sys
from crystools_tpu import telemetry

def work():
    with telemetry.run("worker") as run, run.stage("load"):
        pass

with telemetry.run("parent") as run, run.stage("denoise") as stage:
    stage.step(None)
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    if not (child := os.fork()):
        work()
        sys.exit("the child leaves the parent's run, too")
    os.waitpid(child, 0)
    stage.step(None)
"""


@dataclass(frozen=True)
class Ended:
    """A script that has ended, and what the history has of it, newest first."""

    status: int
    errors: str
    folder: Path
    kept: tuple[RunReport, ...]


def documented(name: str) -> str:
    """The first lines of Python in a document, as they stand there."""
    (lines, *_) = re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    assert isinstance(lines, str)
    assert "telemetry.run(" in lines
    return lines


SCRIPTS: Mapping[str, str] = {
    "README": JAX + documented("README.md"),
    "docs": NO_JAX + documented("docs/telemetry.md"),
    "off": NO_JAX + documented("README.md"),
    "no home": NO_JAX + documented("README.md") + "print(run.report.status)",
    "raises": NO_JAX + documented("README.md") + RAISES,
    "exits": NO_JAX + documented("README.md") + EXITS,
    "cancelled": NO_JAX + documented("README.md") + CANCELLED,
    "switched": SWITCHED,
    "page": PAGE,
    "forks": FORKS,
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Ended]:
    """All of the scripts, run at once, each with a data directory of its own."""
    folders = {name: tmp_path_factory.mktemp(name.replace(" ", "-")) / "data" for name in SCRIPTS}
    folders["no home"].write_text("a file, below which even root can write nothing")
    path = os.pathsep.join(str(ROOT / part) for part in (".", "exporters"))
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    processes = {}
    for name, script in SCRIPTS.items():
        own = {"CRYSTOOLS_TPU_DATA_DIR": str(folders[name])}
        if name == "off":
            own["CRYSTOOLS_TPU_HISTORY"] = "off"
        processes[name] = subprocess.Popen(
            [sys.executable, "-c", script], env={**environ, **own}, stderr=subprocess.PIPE, text=True
        )
    found = {}
    for name, process in processes.items():
        with process:
            _, errors = process.communicate(timeout=120)
        kept: tuple[RunReport, ...] = ()
        if folders[name].is_dir():
            with RunLog(folders[name]) as log:
                kept = log.page(10)
        found[name] = Ended(process.returncode, errors, folders[name], kept)
    return found


def test_the_lines_of_the_readme_are_a_run_that_the_command_lists(
    ended: Mapping[str, Ended], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (ended["README"].status, ended["README"].errors) == (0, "")
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(ended["README"].folder))
    assert main(["runs", "list"]) == 0
    assert re.search(r"my-pipeline +succeeded", capsys.readouterr().out)
    assert main(["runs", "show", "latest", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pipeline"], report["status"]) == ("my-pipeline", "succeeded")
    (stage,) = report["stages"]
    assert (stage["name"], len(stage["steps"]), stage["steps_total"]) == ("denoise", 50, 50)
    assert all(step["finite"] for step in stage["steps"])
    assert report["device"]["platform"] == "cpu"


def test_the_lines_of_the_document_are_a_run_with_all_that_they_say(ended: Mapping[str, Ended]) -> None:
    assert (ended["docs"].status, ended["docs"].errors) == (0, "")
    (report,) = ended["docs"].kept
    assert (report.pipeline, report.model_id, report.output) == ("wan2.1-t2v", "org/name", "video.mp4")
    assert [(stage.name, len(stage.steps)) for stage in report.stages] == [
        ("load", 0),
        ("denoise", 50),
        ("save", 0),
    ]


def test_the_environment_turns_it_off(ended: Mapping[str, Ended]) -> None:
    off = ended["off"]
    assert (off.status, off.errors, off.folder.exists()) == (0, "", False)


def test_a_home_that_cannot_be_written_is_one_warning_and_harms_no_run(ended: Mapping[str, Ended]) -> None:
    assert ended["no home"].status == 0
    (warning,) = ended["no home"].errors.splitlines()
    assert "make the folder writable, or name another in CRYSTOOLS_TPU_DATA_DIR" in warning


@pytest.mark.parametrize(
    ("name", "status", "kept_as", "error"),
    [
        ("raises", 1, Status.FAILED, "RuntimeError: out of paper"),
        ("exits", 3, Status.CANCELLED, "SystemExit: 3"),
        ("cancelled", -2, Status.CANCELLED, "KeyboardInterrupt"),
    ],
)
def test_a_script_that_ends_in_the_run_leaves_how_it_ended(
    name: str, status: int, kept_as: Status, error: str, ended: Mapping[str, Ended]
) -> None:
    (report,) = ended[name].kept
    assert (ended[name].status, report.status, report.error) == (status, kept_as, error)
    assert [len(stage.steps) for stage in report.stages] == [50]


def test_a_switch_says_of_the_runs_after_it_whether_they_are_kept(ended: Mapping[str, Ended]) -> None:
    assert (ended["switched"].status, ended["switched"].errors) == (0, "")
    (report,) = ended["switched"].kept
    assert (report.pipeline, report.status) == ("kept", Status.SUCCEEDED)


def test_a_page_that_opens_and_closes_within_a_run_loses_none_of_it(ended: Mapping[str, Ended]) -> None:
    assert ended["page"].status == 0, ended["page"].errors
    assert re.fullmatch(r"page: http://127\.0\.0\.1:\d+/crystools-tpu/\n", ended["page"].errors)
    after, around, before = ended["page"].kept
    assert (after.pipeline, around.pipeline, before.pipeline) == ("after", "around", "before")
    assert {report.status for report in ended["page"].kept} == {Status.SUCCEEDED}
    assert len(around.stages[0].steps) == 3


def test_a_process_that_was_forked_keeps_its_own_runs_and_no_other(ended: Mapping[str, Ended]) -> None:
    assert ended["forks"].status == 0, ended["forks"].errors
    assert ended["forks"].errors == "the child leaves the parent's run, too\n"
    kept = {report.pipeline: report.status for report in ended["forks"].kept}
    assert kept == {"parent": Status.SUCCEEDED, "worker": Status.SUCCEEDED}
    assert sorted(report.pipeline for report in ended["forks"].kept) == ["parent", "worker", "worker"]
    (parent,) = (report for report in ended["forks"].kept if report.pipeline == "parent")
    assert len(parent.stages[0].steps) == 2
