"""`crystools-tpu trace`: a run's report as a trace file for Perfetto's viewer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from crystools_exporters.optional import trace_renderer
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.telemetry import RunReport, report_from_wire


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = commands.add_parser("trace", help="make a trace file for ui.perfetto.dev of a run's report")
    parser.add_argument("report", type=Path, metavar="REPORT", help="what generate --report wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as run.pftrace")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the trace and says where."""
    write_trace(read_report(arguments.report), arguments.out)
    print(f"{arguments.out}: open it in ui.perfetto.dev")


def read_report(path: Path) -> RunReport:
    """The report in a file. Raises CommandError where there is none."""
    try:
        return report_from_wire(json.loads(path.read_bytes()))
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"{path}: {error}") from None


def write_trace(report: RunReport, path: Path) -> None:
    """Writes the run's trace. Raises CommandError where it cannot."""
    render = trace_renderer()
    if render is None:
        raise CommandError("perfetto is not installed: pip install 'crystools-tpu[perfetto]'")
    try:
        path.write_bytes(render(report))
    except OSError as error:
        raise CommandError(f"--out: {path}: {error.strerror}") from None
