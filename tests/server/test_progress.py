"""How a running stage stands, told to every client, whenever it comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import pytest
from aiohttp.test_utils import TestClient

from crystools_tpu import telemetry
from crystools_tpu.telemetry import Forecast, StageForecast, StageName

from .conftest import PATIENCE_SECONDS, Bench, Serve, receive

WS = "/crystools-tpu/ws"
FORECAST = Forecast("a guess", None, (StageForecast(StageName.DENOISE, None, None, 3.0, None),))
Client: TypeAlias = "TestClient[Any, Any]"
Validate = Callable[[str, Any], None]


class Clock:
    """Stands still unless it is moved. The server's goes on, but a run's own end of a step is ahead of it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_run(bench: Bench, clock: Clock, **options: Any) -> AbstractContextManager[telemetry.Run]:
    return bench.run(clock=clock, **options)


def step(bench: Bench, clock: Clock, stage: telemetry.Stage, seconds: float, kind: str = "full") -> None:
    """A step, recorded when this returns."""
    with bench.bus.subscribe() as events:
        clock.now += seconds
        stage.step(None, kind=kind)
        assert events.get(PATIENCE_SECONDS) is not None


async def test_each_event_of_a_stage_says_how_it_stands(
    bench: Bench, client: Client, clock: Clock, validate: Validate
) -> None:
    async with client.ws_connect(WS) as socket:
        await receive(socket, "hello")
        with a_run(bench, clock, forecast=FORECAST) as run:
            with run.stage("denoise", steps=4) as stage:
                stage.compile_log.duration("/jax/core/compile/backend_compile_duration", 2.0, "jit(step)")
                for seconds in (5.0, 7.0):
                    step(bench, clock, stage, seconds)
        started = await receive(socket, "stage_started")
        compiled = await receive(socket, "compile_finished")
        first = await receive(socket, "step_finished")
        second = await receive(socket, "step_finished")
        finished = await receive(socket, "stage_finished")

    for message, name in ((started, "StageStarted"), (compiled, "CompileFinished"), (second, "StepFinished")):
        validate(f"{name}Message", message)
    told = [message["progress"] for message in (started, compiled, first, second)]
    assert [progress["eta_seconds"] for progress in told] == [12.0, 12.0, 9.0, 10.0]
    assert [progress["eta_by_forecast"] for progress in told] == [True, True, False, False]
    assert [progress["compile_seconds"] for progress in told] == [0.0, 2.0, 2.0, 2.0]
    assert second["eta_seconds"] == 10.0
    assert second["progress"]["step_seconds"] == {"median": 7.0, "p95": 7.0, "min": 7.0, "max": 7.0}
    assert "progress" not in finished


async def test_who_comes_in_the_middle_of_a_run_is_told_in_the_hello_and_hears_the_same_from_then_on(
    bench: Bench, client: Client, clock: Clock, validate: Validate
) -> None:
    with a_run(bench, clock) as run, run.stage("denoise", steps={"full": 3, "cached": 4}) as stage:
        for seconds, kind in ((8.0, "full"), (1.0, "cached"), (3.0, "cached")):
            step(bench, clock, stage, seconds, kind)
        async with client.ws_connect(WS) as late:
            hello = await receive(late, "hello")
            step(bench, clock, stage, 6.0, "full")
            heard = await receive(late, "step_finished")
        answer = await (await client.get(f"/crystools-tpu/api/runs/{run.run_id}")).json()
        page = await (await client.get("/crystools-tpu/api/runs")).json()

    validate("HelloMessage", hello)
    validate("StepFinishedMessage", heard)
    validate("RunReportMessage", answer)
    validate("RunsPageMessage", page)
    assert hello["runs"][0]["progress"]["eta_seconds"] == 2 * 8.0 + 2 * 2.0
    assert [record.get("kind") for record in hello["runs"][0]["stages"][0]["steps"]] == [
        None,
        "cached",
        "cached",
    ]
    assert heard["progress"]["eta_seconds"] == 1 * 7.0 + 2 * 2.0
    assert heard["progress"]["step_seconds"]["median"] == 7.0
    assert heard["progress"]["step_seconds_by_kind"]["cached"]["median"] == 2.0
    assert answer["progress"] == page["runs"][0]["progress"] == heard["progress"]


async def test_a_run_that_has_ended_has_no_progress(bench: Bench, client: Client, clock: Clock) -> None:
    with a_run(bench, clock) as run, run.stage("denoise", steps=2) as stage:
        step(bench, clock, stage, 1.0)
    async with client.ws_connect(WS) as socket:
        (report,) = (await receive(socket, "hello"))["runs"]
    assert "progress" not in report


class Kept:
    """A history that is asked in which thread, and answers when it may."""

    def __init__(self, *runs: telemetry.RunReport) -> None:
        self.runs = runs
        self.may_answer = threading.Event()
        self.asked: list[str] = []

    def page(
        self, limit: int, before: str | None = None
    ) -> tuple[tuple[telemetry.RunReport, ...], list[str]]:
        return (), []

    def report(self, run_id: str) -> None:
        return None

    def earlier(self, report: telemetry.RunReport) -> tuple[telemetry.RunReport, ...]:
        return ()

    def alike(self, report: telemetry.RunReport) -> tuple[telemetry.RunReport, ...]:
        self.asked.append(threading.current_thread().name)
        assert self.may_answer.wait(PATIENCE_SECONDS)
        return self.runs


async def told_of(client: Client, run_id: str) -> Any:
    return await (await client.get(f"/crystools-tpu/api/runs/{run_id}")).json()


async def test_what_the_run_has_still_to_go_is_told_once_the_history_has_answered(
    bench: Bench, serve: Serve, clock: Clock, validate: Validate
) -> None:
    before = telemetry.History()
    with telemetry.run("wan2.1-t2v", bus=telemetry.Bus(), history=before, clock=clock) as run:
        for name, seconds in (("denoise", 40.0), ("vae_decode", 60.0)):
            with run.stage(name):
                clock.now += seconds
    kept = Kept(*before.reports())
    client = await serve(kept=kept)
    async with client.ws_connect(WS) as socket:
        await receive(socket, "hello")
        with a_run(bench, clock) as run, run.stage("denoise", steps=4) as stage:
            step(bench, clock, stage, 10.0)
            first = (await receive(socket, "step_finished"))["progress"]
            kept.may_answer.set()
            while "run_eta_seconds" not in (await told_of(client, run.run_id))["progress"]:
                await asyncio.sleep(0.01)
            step(bench, clock, stage, 10.0)
            second = await receive(socket, "step_finished")
            async with client.ws_connect(WS) as late:
                (report,) = (await receive(late, "hello"))["runs"]

    assert "run_eta_seconds" not in first
    validate("StepFinishedMessage", second)
    told = [second["progress"], report["progress"]]
    assert [progress["run_eta_seconds"] for progress in told] == [2 * 10.0 + 60.0] * 2
    assert {progress["run_eta_by"] for progress in told} == {"history"}
    assert len(kept.asked) == 1
    assert kept.asked != [threading.current_thread().name]
