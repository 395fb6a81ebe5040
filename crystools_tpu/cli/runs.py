"""`crystools-tpu runs`: the history of runs, to list, show, compare, export, import and prune."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from crystools_exporters.retention import parse_age_seconds, parse_size_bytes
from crystools_exporters.run_log import RunLog, RunLogError
from crystools_tpu import telemetry
from crystools_tpu.cli.errors import CheckFailed, CommandError
from crystools_tpu.cli.files import written_whole
from crystools_tpu.cli.run_tables import (
    change_text,
    comparison_table,
    differences_text,
    run_text,
    runs_table,
)
from crystools_tpu.data_dir import data_dir
from crystools_tpu.stage_table import stage_table
from crystools_tpu.telemetry import RunReport, Status
from crystools_tpu.telemetry.events import plain

RUN_HELP = "the run's id or its beginning, latest, latest~1 (the one before), or a report file"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command, its subcommands and their options."""
    parser = commands.add_parser("runs", help="list, show, compare, export, import and prune past runs")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    add = actions.add_parser("list", help="the newest runs")
    add.add_argument("--limit", type=int, default=20, metavar="N", help="(default: %(default)s)")
    add.add_argument("--pipeline", help="of this pipeline alone")
    add.add_argument("--status", choices=list(Status), help="in this state alone")
    add.add_argument("--json", action="store_true", help="the whole reports, as a JSON list")
    add.set_defaults(run=list_runs)

    add = actions.add_parser("show", help="where the time of a run went")
    add.add_argument("of", metavar="RUN", help=RUN_HELP)
    add.add_argument("--json", action="store_true", help="the whole report")
    add.set_defaults(run=show)

    add = actions.add_parser("compare", help="what is faster or slower in B than in A, and whether by chance")
    add.add_argument("a", metavar="A", help=RUN_HELP)
    add.add_argument("b", metavar="B", help="another")
    add.add_argument("--fail-on", metavar="PERCENT", help="exit 1 if anything is worse by more, such as 10%%")
    add.add_argument("--json", action="store_true", help="the comparison as JSON")
    add.set_defaults(run=compare)

    add = actions.add_parser("export", help="write the reports as JSON lines")
    add.add_argument("--out", type=Path, metavar="FILE", help="(default: standard output)")
    add.add_argument("--pipeline", help="of this pipeline alone")
    add.add_argument("--status", choices=list(Status), help="in this state alone")
    add.set_defaults(run=export)

    add = actions.add_parser("import", help="add reports from JSON lines")
    add.add_argument("file", type=Path, metavar="FILE", help="as export writes it; - is standard input")
    add.set_defaults(run=import_)

    add = actions.add_parser("prune", help="delete old runs")
    add.add_argument("--older-than", metavar="AGE", help="such as 30d, 12h or 4w")
    add.add_argument("--max-size", metavar="SIZE", help="the oldest beyond it, such as 500MB or 1GiB")
    add.set_defaults(run=prune)


def list_runs(arguments: argparse.Namespace) -> None:
    """Prints the newest runs."""
    if arguments.limit < 1:
        raise CommandError("--limit: at least 1")
    with opened() as log:
        runs = log.page(arguments.limit, pipeline=arguments.pipeline, status=arguments.status)
    if arguments.json:
        print(json.dumps([telemetry.to_wire(run) for run in runs], indent=2))
    elif runs:
        Console().print(runs_table(runs))
    else:
        print(f"no such runs in {log.path}", file=sys.stderr)


def show(arguments: argparse.Namespace) -> None:
    """Prints what a run was, and its stages."""
    with opened() as log:
        report = found(log, arguments.of)
    if arguments.json:
        print(json.dumps(telemetry.to_wire(report), indent=2))
        return
    print(run_text(report))
    Console().print(stage_table(report))


def compare(arguments: argparse.Namespace) -> None:
    """Prints the comparison. Raises CheckFailed where `--fail-on` finds something."""
    limit_ratio = None if arguments.fail_on is None else parse_percent(arguments.fail_on)
    with opened() as log:
        a, b = found(log, arguments.a), found(log, arguments.b)
        comparison = telemetry.compare(a, b, log.alike(a))
    if arguments.json:
        print(json.dumps({"schema": telemetry.WIRE_SCHEMA, **plain(comparison)}, indent=2))
    else:
        print(differences_text(comparison))
        Console().print(comparison_table(comparison))
    if limit_ratio is not None:
        worse = telemetry.regressions(comparison, limit_ratio)
        if worse:
            lines = [change_text(stage, change) for stage, change in worse]
            raise CheckFailed("\n  ".join([f"worse by more than {arguments.fail_on}:", *lines]))


def export(arguments: argparse.Namespace) -> None:
    """Writes reports as JSON lines, whole or not at all."""
    with opened() as log:
        if arguments.out is None:
            log.export(sys.stdout, pipeline=arguments.pipeline, status=arguments.status)
            return
        try:
            with written_whole(arguments.out) as out:
                count = log.export(out, pipeline=arguments.pipeline, status=arguments.status)
        except OSError as error:
            raise CommandError(f"--out: {arguments.out} cannot be written: {error.strerror}") from None
    print(f"{count} runs written to {arguments.out}")


def import_(arguments: argparse.Namespace) -> None:
    """Adds reports from JSON lines, all or none."""
    try:
        lines = sys.stdin if str(arguments.file) == "-" else arguments.file.open()
        with lines, opened() as log:
            added, known = log.import_lines(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{arguments.file} cannot be read: {error}") from None
    print(f"{added} runs added, {known} were there already")


def prune(arguments: argparse.Namespace) -> None:
    """Deletes old runs."""
    if arguments.older_than is None and arguments.max_size is None:
        raise CommandError("prune: give --older-than, --max-size, or both")
    try:
        age = None if arguments.older_than is None else parse_age_seconds(arguments.older_than)
        size = None if arguments.max_size is None else parse_size_bytes(arguments.max_size)
    except ValueError as error:
        raise CommandError(f"prune: {error}") from None
    with opened() as log:
        deleted = log.prune(max_age_seconds=age, max_bytes=size)
    print(f"{deleted} runs deleted")


@contextlib.contextmanager
def opened() -> Iterator[RunLog]:
    """The history. What goes wrong with it within the block ends the command with one line."""
    try:
        with RunLog(data_dir()) as log:
            yield log
    except RunLogError as error:
        raise CommandError(str(error)) from None


def found(log: RunLog, name: str) -> RunReport:
    """The run that `name` means: a report file, `latest`, `latest~2`, an id or its beginning.

    Raises CommandError where it means none, or several.
    """
    if name.endswith(".json"):
        return read_report(Path(name))
    if latest := re.fullmatch(r"latest(?:~(\d{1,9}))?", name):
        back = int(latest[1] or 0)
        runs = log.page(back + 1)
        if len(runs) <= back:
            raise CommandError(f"{name}: there are {len(runs)} runs in {log.path}")
        return runs[back]
    ids = log.beginning_with(name) if name else ()
    report = log.report(ids[0]) if len(ids) == 1 else None
    if report is None:
        several = "several runs begin so; give more of the id" if ids else "no such run"
        raise CommandError(f"{name}: {several}; `crystools-tpu runs list` shows them")
    return report


def read_report(path: Path) -> RunReport:
    """The report in a file that `generate --report` wrote. Raises CommandError."""
    try:
        return telemetry.report_from_wire(json.loads(path.read_text()))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"{path}: {error}") from None


def parse_percent(text: str) -> float:
    """`10%` or `10` as 0.1. Raises CommandError for anything else."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text.strip())
    if number is None:
        raise CommandError(f"--fail-on: {text!r} is no percentage, such as 10%")
    return float(number[1]) / 100
