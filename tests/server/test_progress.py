"""How a running stage stands, told to every client, whenever it comes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import pytest
from aiohttp.test_utils import TestClient

from crystools_tpu import telemetry
from crystools_tpu.telemetry import Forecast, StageForecast, StageName

from .conftest import PATIENCE_SECONDS, Bench, receive

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
    assert heard["progress"]["step_seconds"]["median"] == 4.5
    assert answer["progress"] == page["runs"][0]["progress"] == heard["progress"]


async def test_a_run_that_has_ended_has_no_progress(bench: Bench, client: Client, clock: Clock) -> None:
    with a_run(bench, clock) as run, run.stage("denoise", steps=2) as stage:
        step(bench, clock, stage, 1.0)
    async with client.ws_connect(WS) as socket:
        (report,) = (await receive(socket, "hello"))["runs"]
    assert "progress" not in report
