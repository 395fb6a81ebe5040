"""Runs of other processes, told to every client while they run."""

from __future__ import annotations

import asyncio
import dataclasses
import getpass
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from aiohttp import ClientWebSocketResponse

from crystools_exporters.exporting import KeptRuns
from crystools_exporters.heartbeats import Observer
from crystools_exporters.processes import Process
from crystools_exporters.run_log import RunLog
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunReport

from .conftest import PATIENCE_SECONDS, Bench, Serve, receive

ROOT = Path(__file__).parents[2]
WS = "/crystools-tpu/ws"
Socket: TypeAlias = "ClientWebSocketResponse[Any]"
Validate = Callable[[str, Any], None]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[KeptRuns]:
    kept = KeptRuns(tmp_path)
    yield kept
    kept.close()


@pytest.fixture
def another(kept: KeptRuns, tmp_path: Path) -> Iterator[RunLog]:
    """The history as a process of another machine writes it."""
    with RunLog(tmp_path, observer=Observer(Process("laptop", "another boot", "", "", 1, 0.0))) as log:
        yield log


async def changed(socket: Socket) -> dict[str, Any]:
    report: dict[str, Any] = (await receive(socket, "run_changed"))["report"]
    return report


async def until(socket: Socket, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first state of a run that is so."""
    while not so(report := await changed(socket)):
        pass
    return report


def steps_of(report: dict[str, Any]) -> int:
    return sum(len(stage["steps"]) for stage in report["stages"])


def running(report: RunReport, steps: int) -> RunReport:
    """An ended run of one stage, as it was after so many steps."""
    (stage,) = report.stages
    begun = dataclasses.replace(
        stage, status=telemetry.Status.RUNNING, seconds=None, steps=stage.steps[:steps], step_seconds=None
    )
    return dataclasses.replace(
        report, status=telemetry.Status.RUNNING, total_seconds=None, stages=(begun,) if steps else ()
    )


def ended() -> RunReport:
    """A run of four steps, of another process."""
    with telemetry.run("script", bus=telemetry.Bus(), history=telemetry.History()) as run:
        with run.stage("denoise", steps=4) as stage:
            for _ in range(4):
                stage.step(None)
    return run.report


async def test_a_run_of_another_process_is_told_as_it_begins_goes_on_and_ends(
    serve: Serve, kept: KeptRuns, another: RunLog, validate: Validate
) -> None:
    whole = ended()
    client = await serve(kept=kept)
    async with client.ws_connect(WS) as first, client.ws_connect(WS) as second:
        for socket in (first, second):
            assert (await receive(socket, "hello"))["runs"] == []
        for state in (running(whole, 0), running(whole, 2), whole):
            another.write([state])
            for socket in (first, second):
                message = await receive(socket, "run_changed")
                validate("RunChangedMessage", message)
                report = message["report"]
                assert (report["run_id"], report["status"]) == (whole.run_id, state.status)
                assert [len(stage["steps"]) for stage in report["stages"]] == [
                    len(stage.steps) for stage in state.stages
                ]
                assert ("progress" in report) == (state.stages != () and state is not whole)


async def test_a_page_that_is_opened_later_sees_what_the_one_before_sees(
    bench: Bench, serve: Serve, kept: KeptRuns, another: RunLog, validate: Validate
) -> None:
    whole = ended()
    old = [
        dataclasses.replace(whole, run_id=f"old{number}", started_unix_seconds=1e9 + number)
        for number in range(25)
    ]
    long = dataclasses.replace(running(whole, 2), run_id="long", started_unix_seconds=1e9 - 1)
    another.write([long, *old])
    client = await serve(kept=kept)
    with bench.run("own") as own:
        async with client.ws_connect(WS) as before:
            hello = await receive(before, "hello")
            seen = {run["run_id"] for run in hello["runs"]}
            seen |= {(await changed(before))["run_id"] for _ in range(21)}
            async with client.ws_connect(WS) as later:
                hello = await receive(later, "hello")
    validate("HelloMessage", hello)
    ids = [run["run_id"] for run in hello["runs"]]
    assert ids == [own.run_id, *(f"old{number}" for number in range(24, 6, -1)), "long"]
    assert "progress" in hello["runs"][-1]
    assert set(ids) <= seen


def followers() -> int:
    return [thread.name for thread in threading.enumerate()].count("crystools-tpu-follower")


async def test_nothing_is_followed_while_nobody_is_there(serve: Serve, kept: KeptRuns) -> None:
    client = await serve(kept=kept)
    assert followers() == 0
    async with client.ws_connect(WS) as first, client.ws_connect(WS) as second:
        for socket in (first, second):
            await receive(socket, "hello")
        assert followers() == 1
        await first.close()
        assert followers() == 1
    async with asyncio.timeout(PATIENCE_SECONDS):
        while followers():
            await asyncio.sleep(0.001)


async def test_a_history_that_cannot_be_followed_harms_no_client(
    bench: Bench, serve: Serve, kept: KeptRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(KeptRuns, "follow", no_thread)
    client = await serve(kept=kept)
    async with client.ws_connect(WS) as socket:
        await receive(socket, "hello")
        with bench.run("own") as run:
            pass
        assert (await receive(socket, "run_finished"))["report"]["run_id"] == run.run_id


SCRIPT = """
import sys
from crystools_exporters.exporting import exporting
from crystools_tpu import telemetry

with exporting():
    for _ in range(2):
        with telemetry.run("script") as run, run.stage("denoise", steps=3) as stage:
            stage.step(None)
            sys.stdin.readline()
            stage.step(None)
"""


async def test_the_runs_of_a_script_are_told_and_that_it_was_killed(
    serve: Serve, kept: KeptRuns, tmp_path: Path
) -> None:
    client = await serve(kept=kept)
    script = tmp_path / "night.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join(str(ROOT / part) for part in (".", "exporters"))
    environ = {**os.environ, "PYTHONPATH": path, "CRYSTOOLS_TPU_DATA_DIR": str(tmp_path)}
    async with client.ws_connect(WS) as socket:
        await receive(socket, "hello")
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), env=environ, stdin=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdin is not None
            first = await until(socket, lambda run: steps_of(run) == 1)
            assert first["status"] == "running"
            assert first["process"] == {"pid": process.pid, "user": getpass.getuser(), "program": "night.py"}
            process.stdin.write(b"\n")
            first = await until(socket, lambda run: run["status"] != "running")
            assert (first["status"], steps_of(first)) == ("succeeded", 2)
            second = await until(socket, lambda run: run["run_id"] != first["run_id"] and steps_of(run) == 1)
            process.kill()
            killed = await until(socket, lambda run: run["status"] != "running")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    assert (killed["run_id"], killed["status"]) == (second["run_id"], "interrupted")
    assert killed["total_seconds"] == pytest.approx(killed["stages"][0]["seconds"], abs=1.0)
