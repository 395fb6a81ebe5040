"""The history of runs: an SQLite file of reports, shared by all processes of a user.

One row a run, with its report as JSON (`telemetry.to_wire`), so that `sqlite3 runs.db` can ask for anything.
A process that is killed leaves all that it had committed. A row that cannot be read, because it is broken or
because another version wrote it, is left out and counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from crystools_exporters.heartbeats import Life, Observer
from crystools_exporters.processes import Process, this_process
from crystools_exporters.report_lines import BadLine, reports_in
from crystools_exporters.run_log_file import FILE_NAME, open_file, remedy, stamp
from crystools_exporters.run_log_file import RunLogError as RunLogError
from crystools_exporters.run_search import condition_of
from crystools_exporters.unforked import UnforkedFile
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunFilter, RunReport, Status

# What has ended does not run again: where one writer of a process follows another, either may be late.
_UPSERT: Final = """
INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET
    status = excluded.status, written_unix_seconds = excluded.written_unix_seconds,
    writer = excluded.writer, report = excluded.report
WHERE excluded.status != 'running' OR run.status IN ('running', 'interrupted')
"""

_BEFORE: Final = (
    "(started_unix_seconds, run_id) < (SELECT started_unix_seconds, run_id FROM run WHERE run_id = :before)"
)

_ATTACHED_BYTES: Final = (
    "IFNULL((SELECT SUM(LENGTH(body)) FROM attachment WHERE attachment.run_id = run.run_id), 0)"
)
_KINDS: Final = "(SELECT group_concat(kind) FROM attachment WHERE attachment.run_id = run.run_id)"

# A history of a gibibyte is not read through for it.
_WITH_FRAGMENT: Final = """
run_id IN (
    SELECT run_id FROM run WHERE pipeline = :pipeline ORDER BY started_unix_seconds DESC LIMIT 300
) AND instr(report, :fragment)
"""

_CONDITIONS: Final = {"fragment": _WITH_FRAGMENT, "began_by": "started_unix_seconds <= :began_by"}
"""Of what is no column's value."""

_MOST_OF_ANY: Final = 6

_IN_PROGRESS: Final = """
SELECT run_id, writer, written_unix_seconds, monotonic_seconds,
    CAST(MAX(written_unix_seconds, IFNULL(unix_seconds, 0)) AS REAL)
FROM run LEFT JOIN heartbeat USING (writer) WHERE status = 'running'
"""

_OTHERS: Final = """
SELECT run_id, status, written_unix_seconds FROM run WHERE writer != :own AND run_id IN (
    SELECT run_id FROM run WHERE status = 'running'
    UNION SELECT value FROM json_each(:also)
    UNION SELECT run_id FROM (
        SELECT run_id FROM run ORDER BY started_unix_seconds DESC, run_id DESC LIMIT :newest))
ORDER BY started_unix_seconds, run_id
"""

# The same heartbeat as when it was judged: it may have come meanwhile.
_STILL: Final = """
SELECT CAST(report AS BLOB) FROM run LEFT JOIN heartbeat USING (writer)
WHERE run_id = ? AND status = 'running' AND written_unix_seconds IS ? AND monotonic_seconds IS ?
"""


_IMPORTED: Final = "imported by "
"""Before the writer of a run that came from elsewhere: what its report names is not here."""


class UnreadableRun(RunLogError):
    """A run is in the history, and its report cannot be read."""


class StillRunning(RunLogError):
    """A run in progress was to be deleted."""


class SearchedTo(NamedTuple):
    """The run at which a search stopped that could not go on for longer."""

    run_id: str
    started_unix_seconds: float


class Page(NamedTuple):
    """Runs, newest first, and the ids of those between them whose reports cannot be read."""

    reports: tuple[RunReport, ...]
    unreadable: tuple[str, ...]


class Found(NamedTuple):
    """What a search has found, as a `Page`, and where it stopped if it did before the oldest run."""

    reports: tuple[RunReport, ...]
    unreadable: tuple[str, ...]
    searched_to: SearchedTo | None


class Kept(NamedTuple):
    """What is kept with a run."""

    media_type: str
    body: bytes


class RunLog:
    """The history in `folder`, which is made where it is missing. For use from any thread.

    Raises RunLogError for a folder or file that cannot be used; one that cannot be written is read. What a
    process left `running` whose heartbeat has long stopped becomes `interrupted`.
    """

    def __init__(
        self, folder: Path, *, clock: Callable[[], float] = time.time, observer: Observer | None = None
    ) -> None:
        self.path = folder / FILE_NAME
        self.uncertain = 0
        """How many runs are `running` for all that is known: nobody has watched their heartbeat for long."""
        self._clock = clock
        self._observer = observer or Observer(this_process())
        self._writer = self._observer.own.to_text()
        self._unmarked: dict[str, float] = {}  # interrupted runs that could not be marked, and when last seen
        with self._errors():
            self._unforked = UnforkedFile(lambda: open_file(self.path))
        self._stamp = stamp(self.path, read_only=self.read_only)
        self._lock = self._unforked.lock
        try:
            self._read_notes()
            self.mark_interrupted()
            self._write_notes()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def read_only(self) -> bool:
        """Whether the file could be opened for reading alone; it stays so until it is opened anew."""
        return self._unforked.file.read_only

    @property
    def is_outdated(self) -> bool:
        """Whether another file has its place by now, or it was changed and can only be read as it was."""
        return stamp(self.path, read_only=self.read_only) != self._stamp

    def close(self) -> None:
        """Closes the file. What was written is kept already."""
        self._unforked.close()

    def write(self, reports: Sequence[RunReport]) -> None:
        """Adds the reports, or replaces those of the same runs; all of them or none."""
        now = self._clock()
        rows = [self._row(report, now) for report in reports]
        with self._transaction() as database:
            self._beat(database)
            database.executemany(_UPSERT, rows)

    def beat(self, running: Collection[str]) -> tuple[str, ...]:
        """Says that this process goes on with these runs. Those that somebody took for interrupted."""
        with self._transaction() as database:
            self._beat(database)
            taken = database.execute(
                "SELECT run_id FROM run WHERE run_id IN (SELECT value FROM json_each(?)) AND status = ?",
                (json.dumps(list(running)), Status.INTERRUPTED.value),
            ).fetchall()
        return tuple(run_id for (run_id,) in taken)

    def page(
        self, limit: int, before: str | None = None, **where: str | float | None
    ) -> tuple[RunReport, ...]:
        """The newest `limit` runs, or those that began before run `before`, newest first.

        `where` narrows it to a `pipeline` or a `status`; with a `pipeline` also to reports with a `fragment`
        in their JSON, among its newest 300; or to those that had `began_by` a moment. An unknown `before` has
        nothing before it.
        """
        return self.read_page(limit, before, **where).reports

    def read_page(self, limit: int, before: str | None = None, **where: str | float | None) -> Page:
        """The runs that `page` returns, and the ids of those that had to be left out."""
        older = "" if before is None else _BEFORE
        query = (
            f"SELECT run_id, CAST(report AS BLOB), {self._kinds} FROM run {_where(where, older)} "
            "ORDER BY started_unix_seconds DESC, run_id DESC"
        )
        reports: list[RunReport] = []
        unreadable: list[str] = []
        with self._errors(), self._lock:
            # The rows come one by one: no more are read than it takes to have as many that can be.
            with contextlib.closing(
                self._database.execute(query, _bindable({**where, "before": before}))
            ) as rows:
                for run_id, text, kinds in rows:
                    try:
                        reports.append(self._read(text, kinds))
                    except ValueError:
                        unreadable.append(str(run_id))
                    if len(reports) == limit:
                        break
        return Page(tuple(reports), tuple(unreadable))

    def search(
        self, chosen: RunFilter, limit: int, before: str | None = None, *, seconds: float = math.inf
    ) -> Found:
        """The newest `limit` of those runs, or of those that began before run `before`, newest first.

        It looks at the rows one by one, and after so many seconds stops and says where it was.
        """
        condition, values = condition_of(chosen)
        query = (
            f"SELECT run_id, started_unix_seconds, CASE WHEN {condition} THEN CAST(report AS BLOB) END, "
            f"{self._kinds} FROM run {_where({}, '' if before is None else _BEFORE)} "
            "ORDER BY started_unix_seconds DESC, run_id DESC"
        )
        reports: list[RunReport] = []
        unreadable: list[str] = []
        give_up_at = time.monotonic() + seconds
        with self._errors(), self._lock:
            with contextlib.closing(
                self._database.execute(query, _bindable({**values, "before": before}))
            ) as rows:
                for run_id, started, text, kinds in rows:
                    try:
                        if text is not None and _is_meant(chosen, text):
                            reports.append(self._read(text, kinds))
                    except ValueError:
                        unreadable.append(str(run_id))
                    if len(reports) == limit:
                        break
                    if time.monotonic() > give_up_at:
                        return Found(tuple(reports), tuple(unreadable), SearchedTo(str(run_id), started))
        return Found(tuple(reports), tuple(unreadable), None)

    def report(self, run_id: str) -> RunReport | None:
        """One run's report; None where it is not in the history. Raises UnreadableRun."""
        query = f"SELECT CAST(report AS BLOB), {self._kinds} FROM run WHERE run_id = ?"
        rows = self._rows(query, (run_id,))
        try:
            return self._read(*rows[0]) if rows else None
        except ValueError as error:
            raise UnreadableRun(
                f"run {run_id} cannot be read: {error}. Another version of crystools-tpu wrote it, or it is "
                f"broken; `crystools-tpu runs delete {run_id}` removes it"
            ) from None

    def attach(self, run_id: str, kind: str, kept: Kept) -> bool:
        """Keeps it with the run, in place of what was kept of that kind; whether the run is there."""
        with self._transaction() as database:
            there = database.execute(  # for who follows the runs of others
                "UPDATE run SET written_unix_seconds = ? WHERE run_id = ?", (self._clock(), run_id)
            ).rowcount
            if there:
                values = (run_id, kind, *kept)
                database.execute("INSERT OR REPLACE INTO attachment VALUES (?, ?, ?, ?)", values)
        return bool(there)

    def attachment(self, run_id: str, kind: str) -> Kept | None:
        """What is kept of that kind with the run; None where nothing is."""
        if not self._unforked.file.has_attachments:
            return None
        query = "SELECT media_type, CAST(body AS BLOB) FROM attachment WHERE run_id = ? AND kind = ?"
        rows = self._rows(query, (run_id, kind))
        return Kept(*rows[0]) if rows else None

    def was_made_here(self, report: RunReport) -> bool:
        """Whether the run's own process wrote it, on this machine: what its report names is here."""
        for (text,) in self._rows("SELECT writer FROM run WHERE run_id = ?", (report.run_id,)):
            writer, own = Process.from_text(text), self._observer.own
            if writer is not None and report.process is not None:
                return (writer.host, writer.pid) == (own.host, report.process.pid)
        return False

    def beginning_with(self, prefix: str) -> tuple[str, ...]:
        """The ids of the runs that begin so, two at most: enough to know whether it is one."""
        query = "SELECT run_id FROM run WHERE run_id >= ? AND run_id < ? LIMIT 2"
        return tuple(row[0] for row in self._rows(query, (prefix, prefix + "\U0010ffff")))

    def version(self) -> int:
        """Another number once somebody else has written into the file."""
        return int(self._rows("PRAGMA data_version")[0][0])

    def others(self, newest: int, also: Collection[str]) -> dict[str, tuple[str, float]]:
        """How the runs of other processes stand, and when that was written, in the order they began.

        Those in progress, those among the `newest`, and `also`.
        """
        rows = self._rows(_OTHERS, {"own": self._writer, "also": json.dumps(list(also)), "newest": newest})
        return {
            run_id: (Status.INTERRUPTED.value if run_id in self._unmarked else status, written)
            for run_id, status, written in rows
        }

    def alike(self, report: RunReport) -> tuple[RunReport, ...]:
        """The newest other runs of the same pipeline and workflow that succeeded, to be compared with."""
        where, most = _same_work(report)
        runs = self.page(most, **where)
        return tuple(run for run in runs if run.run_id != report.run_id)

    def earlier(self, report: RunReport) -> tuple[RunReport, ...]:
        """The newest runs that began before this one, to explain it by, newest first.

        Those of the same pipeline and workflow that succeeded, and the last few of any kind: one of them may
        have done something to this one.
        """
        where, most = _same_work(report)
        began_by = report.started_unix_seconds
        of_the_same = self.page(most, None, **where, began_by=began_by)
        runs = {run.run_id: run for run in (*of_the_same, *self.page(_MOST_OF_ANY, began_by=began_by))}
        runs.pop(report.run_id, None)
        return tuple(sorted(runs.values(), key=lambda run: -run.started_unix_seconds))

    def mark_interrupted(self) -> None:
        """Runs that are `running` and whose process is no more become `interrupted`.

        A process that goes on all the same takes that back with its next heartbeat.
        """
        if not self._unforked.file.has_heartbeats:
            return
        gone: list[tuple[Any, ...]] = []
        uncertain = 0
        for run_id, writer, written, heartbeat, seen in self._rows(_IN_PROGRESS):
            life = self._observer.judge(str(writer), heartbeat, written)
            uncertain += life is Life.UNKNOWN and heartbeat is not None
            if life is Life.GONE:
                gone.append((run_id, written, heartbeat, seen))
        unmarked: dict[str, float] = {}
        if gone:
            try:
                self._mark(gone)
            except RunLogError:  # whoever may only read still reads
                unmarked = {run_id: seen for run_id, _, _, seen in gone}
        self.uncertain, self._unmarked = uncertain, unmarked

    def prune(self, *, max_age_seconds: float | None = None, max_bytes: int | None = None) -> int:
        """Deletes runs that began longer ago, then the oldest until they are no larger; how many.

        What is kept with a run goes with it, and is counted.

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
                    f"""DELETE FROM run WHERE status != 'running' AND run_id IN (
                        SELECT run_id FROM (
                            SELECT run_id, SUM(LENGTH(CAST(report AS BLOB)) + {_ATTACHED_BYTES})
                            OVER (ORDER BY started_unix_seconds DESC, run_id DESC) AS newer FROM run)
                        WHERE newer > ?)""",
                    (max_bytes,),
                ).rowcount
            _forget(database)
        if deleted:
            self._shrink()
        return deleted

    def delete(self, run_ids: Collection[str], *, running_too: bool = False) -> int:
        """Deletes these runs, all or none; how many there were.

        Raises StillRunning where one of them is in progress, unless those are meant as well.
        """
        chosen = json.dumps(list(run_ids))
        with self._transaction() as database:
            query = "run WHERE run_id IN (SELECT value FROM json_each(?))"
            running = database.execute(f"SELECT run_id FROM {query} AND status = 'running'", (chosen,))
            in_progress = ", ".join(str(run_id) for (run_id,) in running)
            if in_progress and not running_too:
                raise StillRunning(f"still running: {in_progress}; nothing was deleted")
            deleted = database.execute(f"DELETE FROM {query}", (chosen,)).rowcount
            _forget(database)
        if deleted:
            self._shrink()
        return deleted

    def export(self, out: IO[str], **where: str | None) -> tuple[int, int]:
        """Writes the reports as JSON lines, oldest first; how many, and how many cannot be read.

        Without what is kept with them.
        """
        ids = self._rows(
            f"SELECT run_id FROM run {_where(where)} ORDER BY started_unix_seconds, run_id", where
        )
        written = 0
        for (run_id,) in ids:
            for (text,) in self._rows("SELECT CAST(report AS BLOB) FROM run WHERE run_id = ?", (run_id,)):
                with contextlib.suppress(ValueError):
                    self._read(text)
                    out.write(text.decode().replace("\n", " ") + "\n")
                    written += 1
        return written, len(ids) - written

    def import_lines(self, lines: IO[bytes]) -> tuple[int, int]:
        """Adds reports from JSON lines, all or none; how many, and how many there were already.

        However many there are, they are in memory one at a time. Raises RunLogError that names the line that
        is no report.
        """
        now = self._clock()
        with self._transaction() as database:  # what cannot be written is said before all is read
            database.execute("CREATE TEMP TABLE incoming AS SELECT * FROM run WHERE false")
            database.execute("CREATE UNIQUE INDEX temp.of_incoming ON incoming (run_id)")
        try:
            with self._errors(), self._lock, self._database as database:
                database.execute("BEGIN")  # of the temporary table alone
                database.executemany(
                    "INSERT OR REPLACE INTO temp.incoming VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (self._row(_as_ended(report), now, _IMPORTED) for report in reports_in(lines)),
                )
            with self._transaction() as database:
                (count,) = database.execute("SELECT COUNT(*) FROM temp.incoming").fetchone()
                added = database.execute("INSERT OR IGNORE INTO run SELECT * FROM temp.incoming").rowcount
        except BadLine as error:
            raise RunLogError(f"{error}; nothing was imported") from None
        finally:
            with self._errors(), self._lock:
                self._database.execute("DROP TABLE temp.incoming")
        return added, count - added

    @property
    def _database(self) -> sqlite3.Connection:
        return self._unforked.database

    @property
    def _kinds(self) -> str:
        """The kinds of what is kept with a row's run, in a query."""
        with self._errors(), self._lock:
            _ = self._database  # opened anew, it may have other tables
        return _KINDS if self._unforked.file.has_attachments else "NULL"

    def _row(self, report: RunReport, now: float, by: str = "") -> tuple[Any, ...]:
        return (
            report.run_id,
            report.started_unix_seconds,
            report.pipeline,
            report.status.value,
            now,
            by + self._writer,
            _to_json(dataclasses.replace(report, attachments=())),  # the table knows
        )

    def _beat(self, database: sqlite3.Connection) -> None:
        database.execute(
            "INSERT OR REPLACE INTO heartbeat VALUES (?, ?, ?)",
            (self._writer, self._observer.now(), self._clock()),
        )

    def _read(self, text: bytes, kinds: str | None = None) -> RunReport:
        """Raises ValueError for what is no report."""
        report = telemetry.report_from_json(text)
        attachments = tuple(sorted(kinds.split(","))) if kinds else ()
        if attachments != report.attachments:
            report = dataclasses.replace(report, attachments=attachments)
        seen = self._unmarked.get(report.run_id)
        return report if seen is None or report.status is not Status.RUNNING else _interrupted(report, seen)

    def _mark(self, gone: Sequence[tuple[Any, ...]]) -> None:
        """Marks runs as interrupted, unless their process, or another, has written meanwhile."""
        with self._transaction() as database:
            for run_id, written, heartbeat, seen in gone:
                for (text,) in database.execute(_STILL, (run_id, written, heartbeat)).fetchall():
                    with contextlib.suppress(ValueError):  # what cannot be read keeps its words
                        text = _to_json(_interrupted(telemetry.report_from_json(text), seen))
                    database.execute(
                        "UPDATE run SET status = ?, report = CAST(? AS TEXT) WHERE run_id = ?",
                        (Status.INTERRUPTED.value, text, run_id),
                    )
            _forget(database)

    def _read_notes(self) -> None:
        """What other commands on this machine have noted of the heartbeats of others."""
        if self._unforked.file.has_heartbeats:
            query = "SELECT writer, heartbeat, since_seconds FROM silence WHERE observer = ?"
            rows = self._rows(query, (self._observer.own.clock,))
            self._observer.notes = {writer: (heartbeat, since) for writer, heartbeat, since in rows}
        self._noted = dict(self._observer.notes)

    def _write_notes(self) -> None:
        new = [
            (writer, self._observer.own.clock, *note)
            for writer, note in self._observer.notes.items()
            if self._noted.get(writer) != note
        ]
        if new and self._observer.own.clock:
            with contextlib.suppress(RunLogError), self._transaction() as database:
                database.executemany("INSERT OR REPLACE INTO silence VALUES (?, ?, ?, ?)", new)

    def _shrink(self) -> None:
        with self._errors(), self._lock:
            self._database.executescript("PRAGMA incremental_vacuum")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _rows(self, query: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        with self._errors(), self._lock:
            return self._database.execute(query, _bindable(parameters)).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors(), self._lock, self._database as database:
            database.execute("BEGIN IMMEDIATE")
            yield database

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            what = getattr(error, "strerror", None) or error
            raise RunLogError(
                f"the run history {self.path} cannot be used: {what}; {remedy(error, self.path)}"
            ) from error


def _bindable(parameters: Any) -> Any:
    """Parameters as SQLite can take them: no more than its largest number, and text without surrogates.

    No run is named by such text.
    """
    if isinstance(parameters, Mapping):
        return {name: _bindable(value) for name, value in parameters.items()}
    if isinstance(parameters, tuple):
        return tuple(map(_bindable, parameters))
    if isinstance(parameters, str):
        return parameters.encode(errors="replace").decode()
    return min(parameters, 2**63 - 1) if isinstance(parameters, int) else parameters


def _same_work(report: RunReport) -> tuple[dict[str, str], int]:
    """What tells the runs of the same pipeline and workflow that succeeded, and how many are enough."""
    where = {"pipeline": report.pipeline, "status": Status.SUCCEEDED.value}
    if (workflow := report.params.get("workflow")) is None:
        return where, 20
    where["fragment"] = f'"workflow":{json.dumps(workflow)}'  # as `_to_json` writes it
    return where, 8  # one of 300 nodes takes a tenth of a second to read


def _where(values: Mapping[str, str | float | None], condition: str = "") -> str:
    conditions = [
        _CONDITIONS.get(column, f"{column} = :{column}")
        for column, value in values.items()
        if value is not None
    ]
    conditions += [condition] if condition else []
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _is_meant(chosen: RunFilter, text: bytes) -> bool:
    """Raises ValueError for what is no report."""
    try:
        return chosen.matches_wire(json.loads(text))
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("this is no run report") from error


def _forget(database: sqlite3.Connection) -> None:
    """Heartbeats are kept of those alone that have a run in progress."""
    for table in ("heartbeat", "silence"):
        database.execute(
            f"DELETE FROM {table} WHERE writer NOT IN (SELECT writer FROM run WHERE status = 'running')"
        )


def _to_json(report: RunReport) -> str:
    return json.dumps(telemetry.to_wire(report), allow_nan=False, separators=(",", ":"), default=str)


def _interrupted(report: RunReport, seen_unix_seconds: float) -> RunReport:
    seconds = _between(report.started_unix_seconds, seen_unix_seconds)
    seen = "" if seconds is None else f"; last seen {seconds:.1f} s into the run"
    return _broken_off(report, f"its process ended without a word{seen}", seen_unix_seconds)


def _as_ended(report: RunReport) -> RunReport:
    """No process writes an imported run on: what its report tells of last is what was seen of it."""
    if report.status is not Status.RUNNING:
        return report
    return _broken_off(report, "it was exported while it ran", _last_told(report))


def _broken_off(report: RunReport, error: str, seen_unix_seconds: float | None) -> RunReport:
    """The run ends, and with it what still ran, where it was last seen."""
    return dataclasses.replace(
        report,
        status=Status.INTERRUPTED,
        error=error,
        total_seconds=_between(report.started_unix_seconds, seen_unix_seconds),
        stages=tuple(
            dataclasses.replace(
                stage,
                status=Status.INTERRUPTED,
                seconds=_between(stage.started_unix_seconds, seen_unix_seconds),
            )
            if stage.status is Status.RUNNING
            else stage
            for stage in report.stages
        ),
    )


def _between(began_unix_seconds: float, seen_unix_seconds: float | None) -> float | None:
    """Unknown where the clock was set back meanwhile."""
    if seen_unix_seconds is None or seen_unix_seconds < began_unix_seconds:
        return None
    return seen_unix_seconds - began_unix_seconds


def _last_told(report: RunReport) -> float | None:
    """The latest moment that a report of a run in progress tells of; None where that is its start alone."""
    moments = [stage.started_unix_seconds for stage in report.stages]
    for stage in report.stages:
        taken = sum(step.seconds for step in stage.steps) if stage.seconds is None else stage.seconds
        moments.append(stage.started_unix_seconds + taken)
        moments += [compiled.finished_unix_seconds for compiled in stage.compiles]
    return max(moments, default=None)
