"""A download tells how much is there, how fast it comes and how long it still takes."""

from __future__ import annotations

from crystools_tpu.telemetry import StageName, report_from_wire, to_wire
from tests.telemetry.conftest import Bench


def test_the_rate_is_of_the_last_ten_seconds(bench: Bench) -> None:
    with bench.run() as run, run.stage(StageName.DOWNLOAD, bytes_total=10_000) as stage:
        for seconds, done in ((0, 0), (10, 5_000), (10, 6_000)):
            bench.clock.advance(seconds)
            stage.transferred(done)
    told = [bench.next("bytes_transferred") for _ in range(3)]
    assert [(event.bytes_done, event.bytes_total) for event in told] == [
        (0, 10_000),
        (5_000, 10_000),
        (6_000, 10_000),
    ]
    assert [event.bytes_per_second for event in told] == [None, 500.0, 100.0]
    assert [event.eta_seconds for event in told] == [None, 10.0, 40.0]


def test_what_is_not_known_is_not_told(bench: Bench) -> None:
    with bench.run() as run, run.stage(StageName.DOWNLOAD) as stage:
        stage.transferred(100)
        bench.clock.advance(1)
        stage.transferred(100)
    for _ in range(2):
        event = bench.next("bytes_transferred")
        assert (event.bytes_total, event.bytes_per_second, event.eta_seconds) == (None, None, None)


def test_the_report_keeps_what_came(bench: Bench) -> None:
    with bench.run() as run:
        with run.stage(StageName.DOWNLOAD, bytes_total=10) as stage:
            stage.transferred(4)
        with run.stage(StageName.LOAD):
            pass
    download, load = run.report.stages
    assert (download.bytes_total, download.bytes_done) == (10, 4)
    assert (load.bytes_total, load.bytes_done) == (None, None)
    assert report_from_wire(to_wire(run.report)) == run.report
