"""The history of runs: an SQLite file of reports, shared by all processes of a user.

One row a run, with its report as JSON (`telemetry.to_wire`), so that `sqlite3 runs.db` can ask for anything.
The journal is SQLite's write-ahead log: readers never wait for writers, and a process that is killed leaves
all that it had committed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from crystools_exporters.processes import Process, is_alive, this_process
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunReport, Status

FILE_NAME: Final = "runs.db"
_LAYOUT: Final = 1  # PRAGMA user_version

# How long to wait for another process's commit, which takes milliseconds, before the file counts as locked.
_BUSY_SECONDS: Final = 2.0

_TABLES: Final = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS run (
    run_id TEXT PRIMARY KEY,
    started_unix_seconds REAL NOT NULL,
    pipeline TEXT NOT NULL,
    status TEXT NOT NULL,
    written_unix_seconds REAL NOT NULL,
    writer TEXT NOT NULL,
    report TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS run_newest_first ON run (started_unix_seconds DESC, run_id DESC);
CREATE INDEX IF NOT EXISTS run_running ON run (status) WHERE status = 'running';
PRAGMA user_version = 1;
COMMIT;
"""

_UPSERT: Final = """
INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET
    status = excluded.status, written_unix_seconds = excluded.written_unix_seconds,
    writer = excluded.writer, report = excluded.report
"""

_BEFORE: Final = (
    "(started_unix_seconds, run_id) < (SELECT started_unix_seconds, run_id FROM run WHERE run_id = :before)"
)


class RunLogError(Exception):
    """The history cannot be read or written. The message names the file and the remedy."""


class RunLog:
    """The history in `folder`, which is made where it is missing. For use from any thread.

    Raises RunLogError for a folder or file that cannot be used. What was left `running` by a process of this
    machine that is no more becomes `interrupted`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] = time.time,
        process: Process | None = None,
        alive: Callable[[Process], bool] = is_alive,
    ) -> None:
        self.path = folder / FILE_NAME
        self._clock = clock
        self._writer = (process or this_process()).to_text()
        self._alive = alive
        self._lock = threading.Lock()
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # prompts are nobody else's business
            self._database = _open(self.path)
        try:
            self._check_layout()
            self.mark_interrupted()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. What was written is kept already."""
        self._database.close()

    def write(self, reports: Sequence[RunReport]) -> None:
        """Adds the reports, or replaces those of the same runs; all of them or none."""
        now = self._clock()
        rows = [
            (
                report.run_id,
                report.started_unix_seconds,
                report.pipeline,
                report.status.value,
                now,
                self._writer,
                _to_json(report),
            )
            for report in reports
        ]
        with self._transaction() as database:
            database.executemany(_UPSERT, rows)

    def page(self, limit: int, before: str | None = None, **where: str | None) -> tuple[RunReport, ...]:
        """The newest `limit` runs, or those that began before run `before`, newest first.

        `where` narrows it to a `pipeline` or a `status`. An unknown `before` has nothing before it.
        """
        older = "" if before is None else _BEFORE
        query = (
            f"SELECT report FROM run {_where(where, older)} "
            "ORDER BY started_unix_seconds DESC, run_id DESC LIMIT :limit"
        )
        return self._reports(query, {**where, "before": before, "limit": limit})

    def report(self, run_id: str) -> RunReport | None:
        """One run's report; None where it is not in the history."""
        reports = self._reports("SELECT report FROM run WHERE run_id = ?", (run_id,))
        return reports[0] if reports else None

    def beginning_with(self, prefix: str) -> tuple[str, ...]:
        """The ids of the runs that begin so, two at most: enough to know whether it is one."""
        query = "SELECT run_id FROM run WHERE run_id >= ? AND run_id < ? LIMIT 2"
        return tuple(row[0] for row in self._rows(query, (prefix, prefix + "\U0010ffff")))

    def alike(self, report: RunReport, limit: int = 20) -> tuple[RunReport, ...]:
        """The newest other runs of the same pipeline that succeeded, for `telemetry.compare`."""
        runs = self.page(limit, pipeline=report.pipeline, status=Status.SUCCEEDED.value)
        return tuple(run for run in runs if run.run_id != report.run_id)

    def mark_interrupted(self) -> None:
        """Runs that are `running` and whose process is no more become `interrupted`."""
        query = "SELECT report, writer, written_unix_seconds FROM run WHERE status = 'running'"
        left = [
            (_from_json(text), written)
            for text, writer, written in self._rows(query)
            if not self._alive(Process.from_text(writer))
        ]
        if left:
            with contextlib.suppress(RunLogError):  # whoever may only read still reads
                self._replace([_interrupted(report, written) for report, written in left])

    def prune(self, *, max_age_seconds: float | None = None, max_bytes: int | None = None) -> int:
        """Deletes runs that began longer ago, then the oldest until the reports are no larger; how many.

        A run in progress stays.
        """
        deleted = 0
        with self._transaction() as database:
            if max_age_seconds is not None:
                deleted += database.execute(
                    "DELETE FROM run WHERE status != 'running' AND started_unix_seconds < ?",
                    (self._clock() - max_age_seconds,),
                ).rowcount
            if max_bytes is not None:
                deleted += database.execute(
                    """DELETE FROM run WHERE status != 'running' AND run_id IN (
                        SELECT run_id FROM (SELECT run_id, SUM(LENGTH(CAST(report AS BLOB)))
                            OVER (ORDER BY started_unix_seconds DESC, run_id DESC) AS newer FROM run)
                        WHERE newer > ?)""",
                    (max_bytes,),
                ).rowcount
        if deleted:
            with self._errors(), self._lock:
                self._database.executescript("PRAGMA incremental_vacuum")
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    def export(self, out: IO[str], **where: str | None) -> int:
        """Writes the reports as JSON lines, oldest first; how many."""
        ids = self._rows(
            f"SELECT run_id FROM run {_where(where)} ORDER BY started_unix_seconds, run_id", where
        )
        for (run_id,) in ids:
            for (text,) in self._rows("SELECT report FROM run WHERE run_id = ?", (run_id,)):
                out.write(text + "\n")
        return len(ids)

    def import_lines(self, lines: Iterable[str]) -> tuple[int, int]:
        """Adds reports from JSON lines, all or none; how many, and how many there were already.

        Raises RunLogError that names the line that is no report.
        """
        reports: dict[str, RunReport] = {}
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    report = telemetry.report_from_wire(json.loads(line))
                except ValueError as error:
                    raise RunLogError(f"line {number}: {error}; nothing was imported") from None
                reports[report.run_id] = report
        new = [report for report in reports.values() if self.report(report.run_id) is None]
        self.write(new)
        return len(new), len(reports) - len(new)

    def _replace(self, reports: Sequence[RunReport]) -> None:
        """Unless another process has written them meanwhile."""
        with self._transaction() as database:
            database.executemany(
                "UPDATE run SET status = ?, report = ? WHERE run_id = ? AND status = 'running'",
                [(report.status.value, _to_json(report), report.run_id) for report in reports],
            )

    def _reports(self, query: str, parameters: Any = ()) -> tuple[RunReport, ...]:
        return tuple(_from_json(row[0]) for row in self._rows(query, parameters))

    def _rows(self, query: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        with self._errors(), self._lock:
            return self._database.execute(query, _bindable(parameters)).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors(), self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.rollback()
                raise
            self._database.commit()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RunLogError(
                f"the run history {self.path} cannot be used: {error}; {_remedy(error)}"
            ) from error

    def _check_layout(self) -> None:
        (layout,) = self._rows("PRAGMA user_version")[0]
        if layout == 0:
            with self._errors(), self._lock:
                self._database.executescript(_TABLES)
        elif layout != _LAYOUT:
            raise RunLogError(
                f"the run history {self.path} has layout {layout}, of another version of crystools-tpu: "
                "upgrade, or name another folder in CRYSTOOLS_TPU_DATA_DIR"
            )


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # A power cut may cost the last commits, never the file; a killed process costs none.
    database.execute("PRAGMA synchronous = NORMAL")
    return database


def _bindable(parameters: Any) -> Any:
    """What is asked for as SQLite can take it: no more than its largest number, and text without surrogates.

    No run is named by such text.
    """
    if isinstance(parameters, Mapping):
        return {name: _bindable(value) for name, value in parameters.items()}
    if isinstance(parameters, tuple):
        return tuple(map(_bindable, parameters))
    if isinstance(parameters, str):
        return parameters.encode(errors="replace").decode()
    return min(parameters, 2**63 - 1) if isinstance(parameters, int) else parameters


def _where(values: Mapping[str, str | None], condition: str = "") -> str:
    conditions = [f"{column} = :{column}" for column, value in values.items() if value is not None]
    conditions += [condition] if condition else []
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _remedy(error: Exception) -> str:
    """What to do about it."""
    text = str(error)
    if "locked" in text:
        return "another process holds it: try again"
    if "full" in text or "space" in text:
        return "free some space on that disk"
    if "not a database" in text or "malformed" in text:
        return "move the file away, and a new one is begun"
    return "make the folder writable, or name another in CRYSTOOLS_TPU_DATA_DIR"


def _to_json(report: RunReport) -> str:
    return json.dumps(telemetry.to_wire(report), allow_nan=False, separators=(",", ":"), default=str)


def _from_json(text: str) -> RunReport:
    return telemetry.report_from_wire(json.loads(text))


def _interrupted(report: RunReport, written_unix_seconds: float) -> RunReport:
    seen_seconds = written_unix_seconds - report.started_unix_seconds
    return dataclasses.replace(
        report,
        status=Status.INTERRUPTED,
        error=f"its process ended without a word; last seen {seen_seconds:.1f} s into the run",
        stages=tuple(
            dataclasses.replace(stage, status=Status.INTERRUPTED) if stage.status is Status.RUNNING else stage
            for stage in report.stages
        ),
    )
