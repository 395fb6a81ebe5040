"""`crystools-tpu runs`: the history, to list, show, explain, compare, export, import, delete and prune."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from crystools_exporters.heartbeats import SILENT_SECONDS
from crystools_exporters.report_lines import MOST_BYTES
from crystools_exporters.retention import parse_age_seconds, parse_size_bytes
from crystools_exporters.run_log import RunLog, RunLogError, StillRunning
from crystools_tpu import telemetry
from crystools_tpu.cli.console import make_console, print_table, print_text
from crystools_tpu.cli.errors import CheckFailed, CommandError
from crystools_tpu.cli.explaining import MOST_OTHERS, print_explained, run_explained
from crystools_tpu.cli.help import Example, add_command
from crystools_tpu.cli.outputs import check_outputs
from crystools_tpu.cli.price import price_given
from crystools_tpu.cli.run_tables import (
    change_text,
    comparison_table,
    differences_text,
    incomparable_text,
    print_stages,
    run_text,
    runs_table,
    suspect_text,
)
from crystools_tpu.data_dir import data_dir
from crystools_tpu.telemetry import Comparison, RunFilter, RunReport, Status
from crystools_tpu.whole_file import reason, written_whole

RUN_HELP = "the run's id or its beginning, latest, latest~1 (the one before), or a report file"

JSON_HELP: Final = "print the whole of it as JSON, in place of the table"

_MOST_IDS: Final = 5

_Add: TypeAlias = Callable[..., argparse.Action]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command, its subcommands and their options."""
    about = "list, show, explain, compare, export, import, delete and prune past runs"
    examples = (
        ("which runs there are", "runs list"),
        ("where the time of the latest went", "runs show latest"),
        ("why it took as long, and what would change it", "runs explain latest"),
        ("whether it is faster than the one before", "runs compare latest~1 latest"),
    )
    more = "`crystools-tpu runs ACTION --help` has the options of an action, and more examples."
    parser = add_command(commands, "runs", about, *examples, more=more)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, run: Callable[[argparse.Namespace], None], about: str, *examples: Example) -> _Add:
        parser = add_command(actions, name, about, *examples)
        parser.set_defaults(run=run)
        return parser.add_argument

    add = action(
        "list",
        list_runs,
        "the newest runs, with seconds a step and MFU of their main stage",
        ("the newest twenty", "runs list"),
        ("the five newest that failed", "runs list --status failed --limit 5"),
        ("those of a model, for a program", "runs list --pipeline wan2.1-t2v --json"),
    )
    add("--limit", type=int, default=20, metavar="N", help="how many (default: %(default)s)")
    about = "those with all of these words in their prompt, name, model, pipeline or id"
    add("--text", metavar="WORDS", help=about)
    _add_choice(add, "of this pipeline, and workflows that made use of it")
    add("--json", action="store_true", help=JSON_HELP)

    add = action(
        "show",
        show,
        "what a run was, and where its time went",
        ("the latest", "runs show latest"),
        ("another, by the beginning of its id", "runs show 3f2a"),
        ("a report that `generate --report` wrote", "runs show fox.json"),
    )
    add("of", metavar="RUN", help=RUN_HELP)
    add("--json", action="store_true", help=JSON_HELP)

    add = action(
        "explain",
        explain,
        "how a run compares with its last five alike, why, what bounds each stage, and what would change it",
        ("why the latest took as long as it did", "runs explain latest"),
        ("the same for a program", "runs explain latest --json"),
    )
    add("of", metavar="RUN", help=RUN_HELP)
    add("--json", action="store_true", help=JSON_HELP)

    add = action(
        "compare",
        compare,
        "what is faster or slower in B than in A, and whether by chance",
        ("the latest with the one before", "runs compare latest~1 latest"),
        ("in a test: fail if it is slower", "runs compare baseline.json latest --fail-on 10%"),
    )
    add("a", metavar="A", help=RUN_HELP)
    add("b", metavar="B", help="another")
    add("--all", action="store_true", help="the rows that did not change, too")
    about = "exit 1 if anything is worse by more, such as 10%%, or B is no such run"
    add("--fail-on", metavar="PERCENT", help=about)
    add("--json", action="store_true", help=JSON_HELP)

    add = action(
        "export",
        export,
        "write the reports as JSON lines",
        ("all of them", "runs export --out runs.jsonl"),
        ("those of a model that succeeded", "runs export --pipeline flux.2 --status succeeded"),
    )
    add("--out", type=Path, metavar="FILE", help="where to (default: standard output)")
    _add_choice(add)

    add = action(
        "import",
        import_,
        "add reports from JSON lines, all of the file or nothing",
        ("those of another machine", "runs import runs.jsonl"),
        ("from standard input", "runs import -"),
    )
    add("file", type=Path, metavar="FILE", help="as export writes it; - is standard input")

    add = action(
        "delete",
        delete,
        "delete these runs, or none where one name is wrong or one still runs",
        ("the latest", "runs delete latest"),
        ("two, by their ids", "runs delete 3f2a 90bc"),
    )
    add("runs", nargs="+", metavar="RUN", help="the run's id or its beginning, latest or latest~1")
    about = "those in progress too; a process that still goes on writes its run anew"
    add("--force", action="store_true", help=about)
    add("--json", action="store_true", help="the ids of the deleted runs as JSON")

    add = action(
        "prune",
        prune,
        "delete old runs; those in progress stay",
        ("what is older than a month", "runs prune --older-than 30d"),
        ("the oldest, until it is small enough", "runs prune --max-size 500MB"),
    )
    add("--older-than", metavar="AGE", help="what began longer ago, such as 12h, 30d or 4w")
    about = "the oldest, until the reports are no larger, such as 500MB or 1GiB"
    add("--max-size", metavar="SIZE", help=about)


def _add_choice(add: _Add, about_pipeline: str = "of this pipeline alone") -> None:
    add("--pipeline", metavar="NAME", help=about_pipeline)
    add("--status", choices=list(Status), metavar="STATUS", help=f"of these alone: {', '.join(Status)}")


def list_runs(arguments: argparse.Namespace) -> None:
    """Prints the newest runs."""
    if arguments.limit < 1:
        raise CommandError("--limit: at least 1")
    with open_log() as log:
        status = None if arguments.status is None else Status(arguments.status)
        found = log.search(RunFilter(arguments.text, arguments.pipeline, status), arguments.limit)
    if arguments.json:
        print(json.dumps([telemetry.to_wire(run) for run in found.reports], indent=2))
    elif found.reports:
        print_table(make_console(), runs_table(found.reports))
    else:
        print(f"no such runs in {log.path}", file=sys.stderr)
    notes = (suspect_text(found.reports), unreadable_text(found.unreadable), uncertain_text(log.uncertain))
    for note in notes:
        if note:
            print(note, file=sys.stderr)


def show(arguments: argparse.Namespace) -> None:
    """Prints what a run was, its stages, and what it cost."""
    price = price_given()
    with open_log() as log:
        report = find_run(log, arguments.of)
        explanation = telemetry.explain(report, log.earlier(report))
    if arguments.json:
        print(json.dumps(telemetry.to_wire(report), indent=2))
        return
    print(run_text(report))
    print_stages(make_console(), report, price, sentence=explanation.sentence)


def compare(arguments: argparse.Namespace) -> None:
    """Prints the comparison, and does the check of `--fail-on`."""
    limit_ratio = None if arguments.fail_on is None else parse_percent(arguments.fail_on)
    with open_log() as log:
        a, b = find_run(log, arguments.a), find_run(log, arguments.b)
        comparison = telemetry.compare(a, b, log.alike(a))
    if arguments.json:
        print(json.dumps(telemetry.to_wire(comparison), indent=2))
    else:
        print_comparison(comparison, whole=arguments.all)
    if limit_ratio is not None:
        check(comparison, limit_ratio, arguments.fail_on)


def print_comparison(comparison: Comparison, *, whole: bool) -> None:
    """What it comes to, then the figures; what is unchanged only where the whole is asked for."""
    console = make_console()
    print_text(console, comparison.bottom_line)
    print(differences_text(comparison))
    table, folded = comparison_table(comparison, whole=whole)
    print_table(console, table)
    if folded:
        print(f"{folded} rows unchanged (--all shows them)")


def explain(arguments: argparse.Namespace) -> None:
    """Prints how a run compares with those before it, why, and what would change it."""
    with open_log() as log:
        report = find_run(log, arguments.of)
        if report.status is Status.RUNNING:
            raise CommandError(f"{arguments.of} is still running; it can be explained when it has ended")
        told = run_explained(report, log.earlier(report), log.page(MOST_OTHERS, pipeline=report.pipeline))
    if arguments.json:
        print(json.dumps(telemetry.to_wire(told), indent=2))
    else:
        print_explained(make_console(), told)


def check(comparison: Comparison, limit_ratio: float, limit: str) -> None:
    """Raises CheckFailed where B is worse or cannot be compared, CommandError where A is no baseline."""
    if comparison.incomparable:
        no_baseline = comparison.a_status is not Status.SUCCEEDED
        b_did_its_work = comparison.b_status is Status.SUCCEEDED
        kind = CommandError if no_baseline and b_did_its_work else CheckFailed
        raise kind(f"--fail-on: {incomparable_text(comparison)}")
    worse = telemetry.regressions(comparison, limit_ratio)
    if worse:
        lines = [change_text(stage, change) for stage, change in worse]
        raise CheckFailed("\n  ".join([f"worse by more than {limit}:", *lines]))


def export(arguments: argparse.Namespace) -> None:
    """Writes reports as JSON lines, whole or not at all."""
    check_outputs({"--out": arguments.out})
    with open_log() as log:
        if arguments.out is None:
            _, unreadable = log.export(sys.stdout, pipeline=arguments.pipeline, status=arguments.status)
        else:
            try:
                with written_whole(arguments.out) as unfinished, unfinished.open("w") as out:
                    count, unreadable = log.export(out, pipeline=arguments.pipeline, status=arguments.status)
            except OSError as error:
                raise CommandError(f"--out: {arguments.out} cannot be written: {reason(error)}") from None
            print(f"{count} runs written to {arguments.out}")
    if unreadable:
        print(f"{unreadable} runs could not be read, and are left out", file=sys.stderr)


def import_(arguments: argparse.Namespace) -> None:
    """Adds reports from JSON lines, all or none."""
    try:
        lines = sys.stdin.buffer if str(arguments.file) == "-" else arguments.file.open("rb")
        with lines, open_log() as log:
            added, known = log.import_lines(lines)
    except OSError as error:
        raise CommandError(f"{arguments.file} cannot be read: {error.strerror}") from None
    print(f"{added} runs added, {known} were there already")


def delete(arguments: argparse.Namespace) -> None:
    """Deletes the runs, all or none."""
    with open_log() as log:
        ids = list(dict.fromkeys(find_run_id(log, name) for name in arguments.runs))
        try:
            log.delete(ids, running_too=arguments.force)
        except StillRunning as error:
            raise CommandError(f"{error}. --force deletes them all the same") from None
    if arguments.json:
        print(json.dumps({"schema": telemetry.WIRE_SCHEMA, "deleted": ids}, indent=2))
    else:
        print(f"{len(ids)} runs deleted")


def prune(arguments: argparse.Namespace) -> None:
    """Deletes old runs."""
    if arguments.older_than is None and arguments.max_size is None:
        raise CommandError("prune: give --older-than, --max-size, or both")
    try:
        age = None if arguments.older_than is None else parse_age_seconds(arguments.older_than)
        size = None if arguments.max_size is None else parse_size_bytes(arguments.max_size)
    except ValueError as error:
        raise CommandError(f"prune: {error}") from None
    with open_log() as log:
        deleted = log.prune(max_age_seconds=age, max_bytes=size)
    print(f"{deleted} runs deleted")


@contextlib.contextmanager
def open_log() -> Iterator[RunLog]:
    """The history. What goes wrong with it within the block ends the command with one line."""
    try:
        with RunLog(data_dir()) as log:
            yield log
    except RunLogError as error:
        raise CommandError(str(error)) from None


def find_run(log: RunLog, name: str) -> RunReport:
    """The run that `name` means: a report file, `latest`, `latest~2`, an id or its beginning.

    Raises CommandError where it means none, or several.
    """
    if name.endswith(".json"):
        return read_report(Path(name))
    report = log.report(find_run_id(log, name))
    if report is None:  # somebody has just deleted it
        raise CommandError(f"{name}: no such run; `crystools-tpu runs list` shows them")
    return report


def find_run_id(log: RunLog, name: str) -> str:
    """The id of the one run of the history that `name` means. Raises CommandError."""
    if latest := re.fullmatch(r"latest(?:~(\d{1,9}))?", name):
        back = int(latest[1] or 0)
        runs = log.page(back + 1)
        if len(runs) <= back:
            raise CommandError(f"{name}: there are {len(runs)} runs in {log.path}")
        return runs[back].run_id
    ids = log.beginning_with(name) if name else ()
    if len(ids) != 1 and name not in ids:
        several = "several runs begin so; give more of the id" if ids else "no such run"
        raise CommandError(f"{name}: {several}; `crystools-tpu runs list` shows them")
    return name if name in ids else ids[0]


def unreadable_text(run_ids: Sequence[str]) -> str:
    """How many runs had to be left out, and what can be done about it; empty for none."""
    if not run_ids:
        return ""
    some = ", ".join(run_ids[:_MOST_IDS]) + (", ..." if len(run_ids) > _MOST_IDS else "")
    return (
        f"{len(run_ids)} runs could not be read: {some}. "
        "`crystools-tpu runs show` says why, `crystools-tpu runs delete` removes them"
    )


def uncertain_text(count: int) -> str:
    """What is said of runs of which nobody here can know yet; empty for none."""
    if not count:
        return ""
    return (
        f"{count} of the running runs are of another machine, or were before a reboot: if they have ended "
        f"without a word, `runs list` knows {SILENT_SECONDS:.0f} seconds from now"
    )


def read_report(path: Path) -> RunReport:
    """The report in a file that `generate --report` wrote. Raises CommandError."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise CommandError(f"{path}: longer than {MOST_BYTES // 1024**2} MiB, which no report is")
        return telemetry.report_from_json(text)
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
