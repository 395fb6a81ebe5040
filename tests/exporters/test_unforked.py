"""No fork inherits an open history: it is closed meanwhile, and opened again by whoever needs it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from crystools_exporters import unforked
from crystools_exporters.run_log import RunLog, RunLogError
from tests.exporters.conftest import REPORT


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> unforked._Forks:
    """This process's, as if no test had forked it."""
    forks = unforked._Forks()
    monkeypatch.setattr(unforked, "_forks", forks)
    monkeypatch.setattr(unforked, "_PATIENCE_SECONDS", 0.001)
    return forks


@pytest.mark.parametrize("side", ["after", "after_in_child"])
def test_a_history_is_closed_as_the_process_forks_and_goes_on_on_both_sides(
    forks: unforked._Forks, side: str, tmp_path: Path
) -> None:
    with RunLog(tmp_path) as log:
        log.write([REPORT])
        forks.before()
        assert [file.name for file in tmp_path.iterdir()] == ["runs.db"], "SQLite leaves nothing beside it"
        getattr(forks, side)()
        assert log.page(10) == (REPORT,)


def test_a_history_that_was_closed_for_good_stays_so(forks: unforked._Forks, tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.close()
    forks.before()
    forks.after()
    with pytest.raises(RunLogError, match="closed database"):
        log.page(10)


def test_a_child_of_a_process_that_was_just_writing_says_that_it_keeps_nothing(
    forks: unforked._Forks, tmp_path: Path
) -> None:
    with RunLog(tmp_path) as log:
        held, free = threading.Event(), threading.Event()

        def write() -> None:
            with log._lock:
                held.set()
                free.wait()

        thread = threading.Thread(target=write)
        thread.start()
        held.wait()
        forks.before()
        free.set()
        thread.join()
        forks.after_in_child()
        with pytest.raises(RunLogError, match="start such processes with multiprocessing's `spawn`"):
            RunLog(tmp_path)
