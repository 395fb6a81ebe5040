"""`crystools-tpu trace`: a run as a trace file for Perfetto's viewer."""

from __future__ import annotations

import argparse
from pathlib import Path

from crystools_exporters.optional import trace_renderer
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.cli.help import add_command
from crystools_tpu.cli.outputs import check_outputs
from crystools_tpu.cli.runs import RUN_HELP, find_run, open_log, read_report
from crystools_tpu.telemetry import RunReport
from crystools_tpu.whole_file import reason, written_whole


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "trace",
        "make a trace file of a run, for ui.perfetto.dev",
        ("of the latest", "trace latest --out run.pftrace"),
        ("of a report that `generate --report` wrote", "trace fox.json --out fox.pftrace"),
    )
    parser.add_argument("of", metavar="RUN", help=RUN_HELP)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to write, such as run.pftrace"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the trace and says where."""
    report_file = Path(arguments.of) if arguments.of.endswith(".json") else None
    check_outputs({"--out": arguments.out}, [("RUN", report_file)])
    write_trace(_report(arguments.of), arguments.out)
    print(f"{arguments.out}: open it in ui.perfetto.dev")


def _report(name: str) -> RunReport:
    if name.endswith(".json"):  # a file needs no history
        return read_report(Path(name))
    with open_log() as log:
        return find_run(log, name)


def write_trace(report: RunReport, path: Path) -> None:
    """Writes the run's trace. Raises CommandError where it cannot."""
    render = trace_renderer()
    if render is None:
        raise CommandError("perfetto is not installed: pip install 'crystools-tpu[perfetto]'")
    try:
        with written_whole(path) as unfinished:
            unfinished.write_bytes(render(report))
    except ImportError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"--out: {path}: {reason(error)}") from None
