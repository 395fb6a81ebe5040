"""Runs are found in the whole history by their words, model and end, a moment at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystools_exporters.run_log import RunLog
from crystools_tpu.telemetry import RunFilter, RunReport, Status

from .conftest import REPORT, STAGE


def report(run_id: str, prompt: str = "", **changes: object) -> RunReport:
    said = {"model_id": None, "params": {"prompt": prompt}, **changes}
    return dataclasses.replace(REPORT, run_id=run_id, **said)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunLog]:
    in_workflow = dataclasses.replace(STAGE, pipeline="flux.2")
    runs = [
        report("a1", "A cat walks in the rain", model_id="Wan-AI/Wan2.1"),
        report("b2", "100% Größe_x", status=Status.FAILED),
        report("c3", pipeline="comfyui", name='My "portrait"', stages=(in_workflow,)),
        report("d4", "a dog in the RAIN"),
    ]
    with RunLog(tmp_path_factory.mktemp("data")) as log:
        log.write(
            [dataclasses.replace(run, started_unix_seconds=1e9 - number) for number, run in enumerate(runs)]
        )
        yield log


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (RunFilter("rain"), ["a1", "d4"]),
        (RunFilter("RAIN cat"), ["a1"]),
        (RunFilter("wan-ai"), ["a1"]),
        (RunFilter("größe"), ["b2"]),
        (RunFilter("GRÖSSE"), []),
        (RunFilter("100%"), ["b2"]),
        (RunFilter("größe_"), ["b2"]),
        (RunFilter("gr_ße"), []),
        (RunFilter('"portrait'), ["c3"]),
        (RunFilter("d4"), ["d4"]),
        (RunFilter("denoise"), []),
        (RunFilter("flux"), ["c3"]),
        (RunFilter(pipeline="flux.2"), ["c3"]),
        (RunFilter(pipeline="comfyui"), ["c3"]),
        (RunFilter(status=Status.FAILED), ["b2"]),
        (RunFilter("rain", status=Status.FAILED), []),
        (RunFilter("  "), ["a1", "b2", "c3", "d4"]),
    ],
)
def test_a_run_is_found_by_what_is_said_of_it_and_by_nothing_else(
    log: RunLog, chosen: RunFilter, found: list[str]
) -> None:
    """What SQLite sees in the report as it is written, and what the run is, agree."""
    assert [run.run_id for run in log.search(chosen, 10).reports] == found
    assert [run.run_id for run in log.page(10) if chosen.matches(run)] == found


def test_a_search_stops_in_time_and_goes_on_from_there(log: RunLog) -> None:
    found = log.search(RunFilter("dog"), 10, seconds=-1.0)
    assert found.reports == ()
    assert found.searched_to == ("a1", 1e9)
    on = log.search(RunFilter("dog"), 10, before="a1")
    assert ([run.run_id for run in on.reports], on.searched_to) == (["d4"], None)


def test_it_looks_no_further_than_it_takes(log: RunLog) -> None:
    first = log.search(RunFilter("rain"), 1, seconds=60)
    assert ([run.run_id for run in first.reports], first.searched_to) == (["a1"], None)
    assert [run.run_id for run in log.search(RunFilter("rain"), 1, before="a1").reports] == ["d4"]


def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.write([report("one", "cat"), report("two", "cat")])
        with log._unforked.lock:
            log._database.execute("UPDATE run SET report = '[\"cat\"]' WHERE run_id = 'two'")
        found = log.search(RunFilter("cat"), 10)
    assert ([run.run_id for run in found.reports], found.unreadable) == (["one"], ("two",))
