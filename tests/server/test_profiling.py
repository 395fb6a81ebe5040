"""Traces and captures of the profiler over the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from crystools_tpu.server import Profiling
from crystools_tpu.telemetry import Profiler, RunReport

from .conftest import PATIENCE_SECONDS, Bench, Serve, receive

Validate = Callable[[str, Any], None]
IDLE = {"status": "idle", "steps": None, "steps_captured": 0, "run_id": None, "path": None, "error": None}


@pytest.fixture
def profiling(bench: Bench, tmp_path: Path) -> Profiling:
    return Profiling(Profiler(bench.bus), tmp_path / "profiles")


def render(report: RunReport) -> bytes:
    return f"trace of {report.pipeline}".encode()


async def test_a_run_is_downloaded_as_a_trace(bench: Bench, serve: Serve) -> None:
    with bench.run('a "b"/c') as run:
        pass
    client = await serve(trace=render)
    answer = await client.get(f"/crystools-tpu/api/runs/{run.run_id}/trace")
    assert (answer.status, await answer.read()) == (200, b'trace of a "b"/c')
    disposition = f'attachment; filename="a-b-c-{run.run_id[:8]}.pftrace"'
    assert answer.headers["Content-Disposition"] == disposition


async def test_a_trace_of_no_known_run_is_not_found(serve: Serve, validate: Validate) -> None:
    answer = await (await serve(trace=render)).get("/crystools-tpu/api/runs/nobody/trace")
    assert answer.status == 404
    validate("RefusalMessage", await answer.json())


async def test_without_the_package_the_answer_says_what_to_install(
    bench: Bench, serve: Serve, validate: Validate
) -> None:
    with bench.run() as run:
        pass
    answer = await (await serve()).get(f"/crystools-tpu/api/runs/{run.run_id}/trace")
    assert answer.status == 501
    refused = await answer.json()
    validate("RefusalMessage", refused)
    assert "pip install 'crystools-tpu[perfetto]'" in refused["error"]["message"]


async def test_with_a_broken_package_the_answer_says_which_and_why(
    bench: Bench, serve: Serve, validate: Validate
) -> None:
    def broken(report: RunReport) -> bytes:
        raise ImportError("perfetto 0.56 is there, but cannot be imported (TypeError: no)")

    with bench.run() as run:
        pass
    answer = await (await serve(trace=broken)).get(f"/crystools-tpu/api/runs/{run.run_id}/trace")
    refused = await answer.json()
    validate("RefusalMessage", refused)
    assert (answer.status, refused["error"]["field"]) == (501, "trace")
    assert refused["error"]["message"] == "perfetto 0.56 is there, but cannot be imported (TypeError: no)"


async def test_hello_says_what_the_server_can_do(
    serve: Serve, profiling: Profiling, validate: Validate
) -> None:
    for options, traces, profile in (
        ({}, False, None),
        ({"trace": render, "profiling": profiling}, True, IDLE),
    ):
        client = await serve(**options)
        async with client.ws_connect("/crystools-tpu/ws") as socket:
            hello = await socket.receive_json(timeout=PATIENCE_SECONDS)
        validate("HelloMessage", hello)
        assert (hello["traces"], hello["profile"]) == (traces, profile)


async def test_a_capture_is_asked_for_and_everybody_hears_of_it(
    bench: Bench, serve: Serve, profiling: Profiling, validate: Validate
) -> None:
    client = await serve(profiling=profiling)
    asked = await client.get("/crystools-tpu/api/profile")
    assert await asked.json() == {"schema": 1, **IDLE}
    async with client.ws_connect("/crystools-tpu/ws") as socket:
        await receive(socket, "hello")
        answer = await client.post("/crystools-tpu/api/profile", json={"steps": 2})
        waiting = await answer.json()
        assert answer.status == 202
        validate("ProfileCaptureMessage", waiting)
        assert (waiting["status"], waiting["steps"]) == ("waiting", 2)
        heard = await receive(socket, "profile_changed")
        validate("ProfileChangedMessage", heard)
        assert heard["capture"] == {name: value for name, value in waiting.items() if name != "schema"}


async def test_a_capture_too_many_is_refused_with_what_to_do(
    serve: Serve, profiling: Profiling, validate: Validate
) -> None:
    client = await serve(profiling=profiling)
    assert (await client.post("/crystools-tpu/api/profile", json={})).status == 202
    assert profiling.profiler.capture.steps == 5
    answer = await client.post("/crystools-tpu/api/profile", json={})
    assert answer.status == 409
    refused = await answer.json()
    validate("RefusalMessage", refused)
    assert "start a run, and it begins" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [({"steps": 0}, "steps"), ({"steps": 51}, "steps"), ({"steps": "5"}, "steps"), ({"stpes": 5}, "stpes")],
)
async def test_a_wrong_request_names_its_field(
    serve: Serve, profiling: Profiling, validate: Validate, body: dict[str, Any], field: str
) -> None:
    answer = await (await serve(profiling=profiling)).post("/crystools-tpu/api/profile", json=body)
    assert answer.status == 400
    refused = await answer.json()
    validate("RefusalMessage", refused)
    assert refused["error"]["field"] == field
    assert profiling.profiler.capture.status == "idle"


async def test_a_folder_that_cannot_be_made_is_named(
    bench: Bench, serve: Serve, tmp_path: Path, validate: Validate
) -> None:
    (tmp_path / "file").touch()
    profiling = Profiling(Profiler(bench.bus), tmp_path / "file" / "profiles")
    answer = await (await serve(profiling=profiling)).post("/crystools-tpu/api/profile", json={})
    assert answer.status == 500
    refused = await answer.json()
    validate("RefusalMessage", refused)
    assert str(tmp_path / "file" / "profiles") in refused["error"]["message"]


async def test_a_capture_is_guarded_as_the_settings_are(serve: Serve, profiling: Profiling) -> None:
    client = await serve(profiling=profiling, token="secret")
    assert (await client.post("/crystools-tpu/api/profile", json={})).status == 401
    foreign = {"Origin": "http://elsewhere.example", "Authorization": "Bearer secret"}
    assert (await client.post("/crystools-tpu/api/profile", json={}, headers=foreign)).status == 403
    assert not profiling.profiler.armed


async def test_what_was_captured_is_answered_with_its_path(
    bench: Bench, serve: Serve, profiling: Profiling
) -> None:
    client = await serve(profiling=profiling)
    await client.post("/crystools-tpu/api/profile", data=json.dumps({"steps": 1}))
    with bench.run(profiler=profiling.profiler) as run, run.stage("denoise", steps=2) as stage:
        for _ in range(2):
            stage.step(jax.numpy.ones(2))
    profiling.profiler.wait()
    capture = await (await client.get("/crystools-tpu/api/profile")).json()
    assert (capture["status"], capture["run_id"]) == ("written", run.run_id)
    assert list(Path(capture["path"]).glob("*.xplane.pb"))
