"""What a run has left: its own output alone is served, what is kept with it, and a search of the history."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from aiohttp.test_utils import TestClient

from crystools_exporters import exporting
from crystools_exporters.exporting import KeptRuns
from crystools_exporters.run_log import Kept, RunLog
from crystools_tpu import telemetry
from crystools_tpu.telemetry import Process, RunReport

from .conftest import Bench, Serve

Validate = Callable[[str, Any], None]
Client: TypeAlias = "TestClient[Any, Any]"

RUNS = "/crystools-tpu/api/runs"
VIDEO = b"\x00\x00\x00\x20ftypisom" + bytes(range(100))
ELSEWHERE = "It was made on another machine, or the run was imported."
ANOTHER_TIME = "The file there is not the run's: it was written at another time."


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RunLog]:
    with RunLog(tmp_path / "history") as log:
        yield log


@pytest.fixture
async def client(serve: Serve, log: RunLog) -> Client:
    return await serve(kept=KeptRuns(log.path.parent))


@pytest.fixture
def report(tmp_path: Path) -> RunReport:
    """A run of another process of this machine's, with a video that it made."""
    with telemetry.run("wan2.1-t2v", bus=telemetry.Bus(), history=telemetry.History()) as run:
        video = tmp_path / "a video.mp4"
        video.write_bytes(VIDEO)
        run.output = str(video)
    return dataclasses.replace(run.report, process=Process(os.getpid(), "ana", "generate"))


async def problem(client: Client, run_id: str, validate: Validate) -> str:
    """Why the output is not served, as both answers say."""
    answer = await client.get(f"{RUNS}/{run_id}/output")
    assert answer.status == 404
    refused = await answer.json()
    validate("RefusalMessage", refused)
    result = await (await client.get(f"{RUNS}/{run_id}/result")).json()
    validate("RunResultMessage", result)
    assert result["media_type"] is None
    assert result["problem"] == refused["error"]["message"]
    return str(result["problem"])


async def test_a_runs_output_is_served_whole_and_in_ranges_and_runs_no_script(
    client: Client, log: RunLog, report: RunReport, validate: Validate
) -> None:
    log.write([report])
    result = await (await client.get(f"{RUNS}/{report.run_id}/result")).json()
    validate("RunResultMessage", result)
    assert result == {"schema": 1, "media_type": "video/mp4", "problem": None}
    answer = await client.get(f"{RUNS}/{report.run_id}/output")
    assert (answer.status, await answer.read()) == (200, VIDEO)
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["Content-Disposition"] == 'inline; filename="a-video.mp4"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    policies = answer.headers.getall("Content-Security-Policy")
    assert [("sandbox" in policy, "default-src 'none'" in policy) for policy in policies] == [(True, True)]
    part = await client.get(f"{RUNS}/{report.run_id}/output", headers={"Range": "bytes=4-11"})
    assert (part.status, await part.read()) == (206, b"ftypisom")


def beside(report: RunReport, name: str, body: bytes = VIDEO) -> RunReport:
    path = Path(report.output or "").with_name(name)
    path.write_bytes(body)
    return dataclasses.replace(report, output=str(path))


def linked(report: RunReport) -> RunReport:
    path = Path(report.output or "").with_name("link.mp4")
    path.symlink_to(report.output or "")
    return dataclasses.replace(report, output=str(path))


def piped(report: RunReport) -> RunReport:
    path = Path(report.output or "").with_name("pipe.mp4")
    os.mkfifo(path)
    return dataclasses.replace(report, output=str(path))


def compressed(report: RunReport) -> RunReport:
    Path(f"{report.output}.gz").touch()
    return report


def an_hour_later(report: RunReport) -> RunReport:
    later = report.started_unix_seconds + 3600
    os.utime(report.output or "", (later, later))
    return report


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda run: dataclasses.replace(run, output=None), None),
        (lambda run: dataclasses.replace(run, output="/etc/passwd"), "Only .mp4, .webm, .png, .jpg"),
        (lambda run: dataclasses.replace(run, output="a video.mp4"), ELSEWHERE),
        (lambda run: dataclasses.replace(run, process=Process(1, "ana", "init")), ELSEWHERE),
        (lambda run: dataclasses.replace(run, output=f"{run.output}/none.mp4"), "The file cannot be read."),
        (lambda run: dataclasses.replace(run, output="/none.mp4"), "The file is no longer there."),
        (lambda run: beside(run, "page.mp4", b"<html><script>"), "It is not what its name says."),
        (lambda run: beside(run, "frames.npy"), "Only .mp4, .webm, .png, .jpg"),
        (linked, "The file cannot be read."),
        (piped, "It is no file."),
        (an_hour_later, ANOTHER_TIME),
        (lambda run: dataclasses.replace(run, started_unix_seconds=1e9), ANOTHER_TIME),
        (compressed, "There is a compressed file of the same name"),
    ],
)
async def test_any_other_file_is_not_served_and_a_sentence_says_why(
    client: Client,
    log: RunLog,
    report: RunReport,
    validate: Validate,
    changed: Callable[[RunReport], RunReport],
    why: str | None,
) -> None:
    log.write([changed(report)])
    if why is None:
        answer = await client.get(f"{RUNS}/{report.run_id}/output")
        assert (await answer.json())["error"]["message"] == "The run has no output."
    else:
        assert (await problem(client, report.run_id, validate)).startswith(why)


async def test_the_output_of_a_run_that_was_imported_is_not_served(
    client: Client, log: RunLog, report: RunReport, tmp_path: Path, validate: Validate
) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text(json.dumps(telemetry.to_wire(report)))
    with file.open("rb") as lines:
        log.import_lines(lines)
    assert await problem(client, report.run_id, validate) == ELSEWHERE


async def test_the_output_of_a_run_of_the_servers_own_process_is_served_without_a_history(
    bench: Bench, serve: Serve, tmp_path: Path
) -> None:
    with bench.run() as run:
        (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        run.output = str(tmp_path / "image.png")
    client = await serve()
    answer = await client.get(f"{RUNS}/{run.run_id}/output")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    assert (await client.get(f"{RUNS}/{run.run_id}/thumbnail")).status == 404


async def test_what_is_kept_with_a_run_is_served(client: Client, log: RunLog, report: RunReport) -> None:
    graph = {"nodes": [], "version": 0.4}
    log.write([dataclasses.replace(report, name="../Cats & dogs")])
    log.attach(report.run_id, "thumbnail", Kept("image/jpeg", b"\xff\xd8\xff"))
    log.attach(report.run_id, "workflow", Kept("application/gzip", gzip.compress(json.dumps(graph).encode())))
    picture = await client.get(f"{RUNS}/{report.run_id}/thumbnail")
    assert (picture.headers["Content-Type"], await picture.read()) == ("image/jpeg", b"\xff\xd8\xff")
    workflow = await client.get(f"{RUNS}/{report.run_id}/workflow")
    assert await workflow.json() == graph
    name = f"..-Cats-dogs-{report.run_id[:8]}.json"
    assert workflow.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    told = await (await client.get(f"{RUNS}/{report.run_id}")).json()
    assert told["attachments"] == ["thumbnail", "workflow"]


@pytest.mark.parametrize(
    "body",
    [b"no gzip", gzip.compress(b"{}")[:-4], gzip.compress(bytes(33 * 2**20))],
    ids=["no gzip", "cut off", "too large unpacked"],
)
async def test_what_is_broken_or_no_picture_is_not_served(
    client: Client, log: RunLog, report: RunReport, body: bytes, validate: Validate
) -> None:
    log.write([report])
    log.attach(report.run_id, "workflow", Kept("application/gzip", body))
    log.attach(report.run_id, "thumbnail", Kept("text/html", b"<script>"))
    for kind in ("workflow", "thumbnail"):
        answer = await client.get(f"{RUNS}/{report.run_id}/{kind}")
        assert answer.status == 404
        validate("RefusalMessage", await answer.json())


async def test_what_a_run_has_left_needs_the_token(serve: Serve, log: RunLog, report: RunReport) -> None:
    log.write([report])
    log.attach(report.run_id, "thumbnail", Kept("image/jpeg", b"\xff\xd8\xff"))
    client = await serve(kept=KeptRuns(log.path.parent), token="secret")
    for kind in ("output", "thumbnail", "workflow", "result"):
        assert (await client.get(f"{RUNS}/{report.run_id}/{kind}")).status == 401
    assert (await client.get(f"{RUNS}/{report.run_id}/thumbnail?token=secret")).status == 200


async def test_runs_are_found_in_the_history_and_in_this_process(
    bench: Bench, client: Client, log: RunLog, report: RunReport, validate: Validate
) -> None:
    log.write(
        [
            dataclasses.replace(
                report, run_id=f"old{n}", params={"prompt": "a cat"}, started_unix_seconds=1e9 - n
            )
            for n in range(3)
        ]
    )
    with bench.run(params={"prompt": "A black CAT"}) as own:
        pass
    with bench.run("flux.2", params={"prompt": "a dog"}):
        pass
    page = await (await client.get(f"{RUNS}?text=cat&limit=3&pipeline=wan2.1-t2v&status=succeeded")).json()
    validate("RunsPageMessage", page)
    assert [run["run_id"] for run in page["runs"]] == [own.run_id, "old0", "old1"]
    assert (page["more"], page["searched_to"]) == (True, None)
    page = await (await client.get(f"{RUNS}?text=cat&before=old1")).json()
    assert ([run["run_id"] for run in page["runs"]], page["more"]) == (["old2"], False)


async def test_a_search_that_takes_long_says_how_far_it_came(
    bench: Bench, client: Client, log: RunLog, report: RunReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_SEARCH_SECONDS", -1.0)
    runs = [dataclasses.replace(report, run_id=f"old{n}", started_unix_seconds=4e9 - n) for n in range(2)]
    log.write(runs)
    with bench.run("wan2.1-t2v"):  # is older, and comes when it is its turn
        pass
    page = await (await client.get(f"{RUNS}?text=wan2.1")).json()
    assert ([run["run_id"] for run in page["runs"]], page["more"]) == (["old0"], True)
    assert page["searched_to"] == {"run_id": "old0", "started_unix_seconds": 4e9}


@pytest.mark.parametrize(
    ("query", "field"),
    [("status=broken", "status"), (f"text={201 * 'a'}", "text"), (f"pipeline={201 * 'a'}", "pipeline")],
)
async def test_what_cannot_be_looked_for_is_named(
    client: Client, validate: Validate, query: str, field: str
) -> None:
    answer = await client.get(f"{RUNS}?{query}")
    assert answer.status == 400
    refused = await answer.json()
    validate("RefusalMessage", refused)
    assert refused["error"]["field"] == field
