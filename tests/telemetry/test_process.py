"""Which process a run is of."""

from __future__ import annotations

import getpass
import os
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from crystools_tpu import telemetry
from crystools_tpu.telemetry import process
from crystools_tpu.telemetry.process import started_as
from tests.telemetry.conftest import Bench

COMFYUI = {"comfy": SimpleNamespace(), "server": SimpleNamespace(PromptServer=object)}


def main_of(spec: str | None) -> dict[str, Any]:
    """The module `__main__` of a process that was started with `python -m`, or otherwise."""
    return {"__main__": SimpleNamespace(__spec__=None if spec is None else SimpleNamespace(name=spec))}


@pytest.mark.parametrize(
    ("argv", "modules", "program"),
    [
        (["/usr/bin/crystools-tpu", "generate", "wan2.1-t2v"], main_of(None), "generate"),
        (["/opt/crystools_tpu/__main__.py", "demo"], main_of("crystools_tpu.__main__"), "demo"),
        (["crystools-tpu.exe", "demo"], main_of(None), "demo"),
        (["/home/ann/train.py", "--lr", "1"], main_of(None), "train.py"),
        (["/usr/lib/python3/pytest/__main__.py"], main_of("pytest.__main__"), "pytest"),
        (["/home/ann/jobs/night.py"], main_of("jobs.night"), "jobs.night"),
        (["-c"], main_of(None), "python -c"),
        (["-"], main_of(None), "python"),
        ([""], {}, "python"),
        (["/usr/lib/ipykernel_launcher.py", "-f", "k.json"], {"ipykernel": SimpleNamespace()}, "notebook"),
        (["main.py", "--listen"], {**COMFYUI, **main_of(None)}, "ComfyUI"),
        (["main.py"], {"comfy": SimpleNamespace(), **main_of(None)}, "main.py"),
        ([], {}, None),
    ],
)
def test_a_program_is_called_as_its_user_started_it(
    argv: list[str], modules: dict[str, Any], program: str | None
) -> None:
    assert started_as(argv, modules) == program


def test_every_run_says_whose_it_is(bench: Bench) -> None:
    with bench.run() as run:
        pass
    described = run.report.process
    assert described is not None
    assert (described.pid, described.user) == (os.getpid(), getpass.getuser())
    assert described.program
    with telemetry.silent_run("test") as silent:
        assert silent.report.process == described


def test_it_is_looked_at_once_and_anew_after_a_fork(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.run() as before:
        pass
    monkeypatch.setattr(process, "_user", lambda: "somebody else")
    with bench.run() as again:
        pass
    assert again.report.process == before.report.process
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 7)
    with bench.run() as forked:
        pass
    assert forked.report.process is not None
    assert (forked.report.process.pid, forked.report.process.user) == (2**22 + 7, "somebody else")


def test_a_user_without_a_name_is_unknown_and_a_process_that_cannot_be_described_harms_no_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nobody() -> NoReturn:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 8)
    with bench.run() as run:
        pass
    assert run.report.process is not None
    assert run.report.process.user is None
    assert caplog.messages == []

    monkeypatch.setattr(process, "_described", nobody)
    with bench.run() as run:
        pass
    assert (run.report.process, run.report.status) == (None, "succeeded")
    assert caplog.messages[0].startswith("the process could not be described: TypeError")
