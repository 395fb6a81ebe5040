"""What is kept with a run: made off its threads, found by whoever asks, and gone with it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crystools_exporters import run_log_file
from crystools_exporters.heartbeats import Observer
from crystools_exporters.processes import this_process
from crystools_exporters.run_log import Kept, RunLog
from crystools_exporters.run_log_writer import RunLogWriter
from crystools_tpu import telemetry
from crystools_tpu.telemetry import Attachment, Process, RunReport
from crystools_tpu.telemetry.events import to_wire

from .conftest import REPORT

PICTURE = Kept("image/jpeg", b"\xff\xd8\xff a picture")
OWN = Process(os.getpid(), "ana", "generate")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RunLog]:
    with RunLog(tmp_path / "data") as log:
        yield log


def report(run_id: str) -> RunReport:
    return dataclasses.replace(REPORT, run_id=run_id, process=OWN)


def attached(log: RunLog) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(log.path)) as database:
        return database.execute("SELECT run_id, kind FROM attachment ORDER BY 1, 2").fetchall()


def test_what_is_kept_with_a_run_is_found_and_its_report_says_so(log: RunLog) -> None:
    log.write([report("one"), report("two")])
    assert log.attach("one", "workflow", Kept("application/gzip", b"graph"))
    assert log.attach("one", "thumbnail", Kept("image/jpeg", b"older"))
    assert log.attach("one", "thumbnail", PICTURE)
    assert not log.attach("nobody", "thumbnail", PICTURE)
    assert log.attachment("one", "thumbnail") == PICTURE
    assert log.attachment("two", "thumbnail") is None
    assert {run.run_id: run.attachments for run in log.page(10)} == {
        "one": ("thumbnail", "workflow"),
        "two": (),
    }
    log.write([report("one")])
    kept = log.report("one")
    assert kept is not None
    assert kept.attachments == ("thumbnail", "workflow"), "it stays where the run is written anew"


def test_it_is_deleted_with_its_run_also_by_a_version_that_knows_of_none(log: RunLog) -> None:
    log.write([report(name) for name in ("deleted", "pruned", "by another", "kept")])
    for name in ("deleted", "pruned", "by another", "kept"):
        log.attach(name, "thumbnail", PICTURE)
    log.delete(["deleted"])
    with contextlib.closing(sqlite3.connect(log.path, isolation_level=None)) as another:
        another.execute("DELETE FROM run WHERE run_id = 'by another'")
        another.execute("UPDATE run SET started_unix_seconds = 0 WHERE run_id = 'pruned'")
    log.prune(max_age_seconds=time.time() - 1000)
    assert attached(log) == [("kept", "thumbnail")]


def test_it_counts_in_the_size_of_the_history(log: RunLog) -> None:
    first, second = report("first"), dataclasses.replace(report("second"), started_unix_seconds=2e9)
    log.write([first, second])
    assert log.prune(max_bytes=100_000) == 0
    log.attach("first", "thumbnail", Kept("image/jpeg", bytes(100_000)))
    assert log.prune(max_bytes=100_000) == 1
    assert [run.run_id for run in log.page(10)] == ["second"]


def without_the_table(log: RunLog) -> None:
    with contextlib.closing(sqlite3.connect(log.path)) as database:
        database.executescript("DROP TRIGGER attachment_goes_with_its_run; DROP TABLE attachment;")


def test_a_history_of_before_there_were_any_gets_them(log: RunLog) -> None:
    log.write([report("one")])
    without_the_table(log)
    with RunLog(log.path.parent) as again:
        assert again.attach("one", "thumbnail", PICTURE)
        again.delete(["one"])
    assert attached(log) == []


def test_such_a_history_that_can_only_be_read_is_read(log: RunLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write([report("one")])
    without_the_table(log)
    log.close()

    def refuse(path: Path) -> None:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr(run_log_file, "_open_for_writing", refuse)
    with RunLog(log.path.parent) as reading:
        assert reading.page(10) == (report("one"),)
        assert reading.search(telemetry.RunFilter("cat"), 10).unreadable == ()
        assert reading.attachment("one", "thumbnail") is None


def test_what_is_exported_has_none_and_what_is_imported_was_not_made_here(
    log: RunLog, tmp_path: Path
) -> None:
    log.write([report("one")])
    log.attach("one", "thumbnail", PICTURE)
    out = io.StringIO()
    log.export(out)
    assert "thumbnail" not in out.getvalue()
    assert log.was_made_here(report("one"))
    with RunLog(tmp_path / "elsewhere") as other:
        other.import_lines(io.BytesIO(out.getvalue().encode()))
        (imported,) = other.page(1)
        assert imported == report("one")
        assert not other.was_made_here(imported), "its process is even the one that imported it"


def test_what_another_machine_or_process_wrote_was_not_made_here(tmp_path: Path) -> None:
    elsewhere = Observer(dataclasses.replace(this_process(), host="another-machine"))
    with RunLog(tmp_path, observer=elsewhere) as there:
        there.write([report("one")])
    with RunLog(tmp_path) as here:
        here.write([dataclasses.replace(report("two"), process=Process(1, "ana", "init"))])
        here.write([dataclasses.replace(report("three"), process=None)])
        assert [here.was_made_here(run) for run in here.page(10)] == [False, False, False]
        assert not here.was_made_here(report("nobody"))


class Bench:
    """A process's telemetry with a history in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bus = telemetry.Bus()
        self.history = telemetry.History()
        self.left_out: set[str] = set()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        writer = RunLogWriter(
            lambda: RunLog(self.folder),
            bus=self.bus,
            history=self.history,
            interval_seconds=0.01,
            left_out=self.left_out,
        )
        try:
            yield
        finally:
            writer.close()

    def run(self) -> contextlib.AbstractContextManager[telemetry.Run]:
        return telemetry.run("wan2.1-t2v", bus=self.bus, history=self.history)

    def kept(self) -> tuple[RunReport, ...]:
        with RunLog(self.folder) as log:
            return log.page(10)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "data")


def picture(make: Callable[[], bytes | None]) -> Attachment:
    return Attachment("thumbnail", "image/jpeg", make)


def test_it_is_made_in_the_keepers_thread_and_told_once_it_can_be_asked_for(bench: Bench) -> None:
    made_in: list[str] = []

    def make() -> bytes:
        made_in.append(threading.current_thread().name)
        return PICTURE.body

    told = threading.Event()
    with bench.writing(), bench.bus.subscribe() as subscription:
        with bench.run() as run:
            run.attach(picture(make))
        while not told.is_set():
            event = subscription.get(20)
            assert event is not None
            if isinstance(event, telemetry.RunChanged | telemetry.RunFinished) and event.report.attachments:
                with RunLog(bench.folder) as log:
                    assert log.attachment(run.run_id, "thumbnail") == PICTURE
                told.set()
    assert made_in == ["crystools-tpu-run-log"]
    assert run.report.attachments == ("thumbnail",)
    (kept,) = bench.kept()
    assert kept.attachments == ("thumbnail",)


def test_where_nothing_is_kept_nothing_is_made_also_after_the_end(bench: Bench) -> None:
    def make() -> bytes:
        raise AssertionError("this run is not to be kept")

    with bench.run() as run:
        run.attach(picture(make))  # there is no history
    running = bench.run()
    run = running.__enter__()
    bench.left_out.add(run.run_id)
    with bench.writing():
        run.attach(picture(make))
        running.__exit__(None, None, None)
        bench.left_out.clear()
        run.attach(picture(make))
        bench.bus.publish(telemetry.RunChanged(dataclasses.replace(run.report, output="/a/secret.mp4")))
    assert not bench.folder.exists()


def test_what_cannot_be_made_or_is_too_large_costs_one_warning_and_no_run(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> bytes:
        raise MemoryError("no room")

    for make in (fails, fails, lambda: None, lambda: bytes(2**20 + 1)):
        with bench.writing(), bench.run() as run:
            run.attach(picture(make))
    assert [run.attachments for run in bench.kept()] == [(), (), (), ()]
    assert caplog.messages.count("a thumbnail could not be made: MemoryError: no room") == 2


def test_what_is_heard_of_a_run_after_its_end_is_kept(bench: Bench) -> None:
    with bench.writing():
        with bench.run() as run:
            pass
        bench.bus.publish(telemetry.RunChanged(dataclasses.replace(run.report, output="/videos/cat.mp4")))
        run.attach(picture(lambda: PICTURE.body))
    (kept,) = bench.kept()
    assert (kept.output, kept.attachments) == ("/videos/cat.mp4", ("thumbnail",))


def test_a_report_says_what_is_kept_only_where_something_is(log: RunLog) -> None:
    log.write([report("one")])
    assert "attachments" not in to_wire(log.page(1)[0])
