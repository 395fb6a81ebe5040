"""`crystools-tpu demo`: a video generated from a tiny random checkpoint and watched on a live page."""

from __future__ import annotations

import argparse
import hashlib
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from crystools_pipelines.models import MODELS
from crystools_tpu.cli.console import make_console, print_line
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.cli.explaining import sentence_of
from crystools_tpu.cli.generate import check_finite, generate_watched
from crystools_tpu.cli.help import add_command
from crystools_tpu.cli.outputs import check_outputs
from crystools_tpu.cli.price import price_given
from crystools_tpu.cli.run_tables import print_stages
from crystools_tpu.cli.serve import panel
from crystools_tpu.cli.signals import unwound
from crystools_tpu.data_dir import PROFILES, data_dir
from crystools_tpu.open_pages import open_page
from crystools_tpu.telemetry.text import safe_text
from crystools_tpu.whole_file import reason

logger = logging.getLogger(__name__)

MODEL: Final = "wan2.1-t2v"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = add_command(
        commands,
        "demo",
        "watch a tiny model generate a video, without downloads and without a TPU",
        ("open the page that it names, and watch", "demo"),
        ("for a script: end after the video", "demo --once --out /tmp/demo"),
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="end after the video; else, on a terminal, the page stays until Enter is pressed",
    )
    where = "where to write (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("demo-output"), metavar="DIR", help=where)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serves the page, generates `video.mp4` and `report.json`, and prints the table of stages."""
    from crystools_pipelines.tiny import write_tiny_checkpoint

    console = make_console()
    video, report_path = arguments.out / "video.mp4", arguments.out / "report.json"
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out: {arguments.out} cannot be made: {reason(error)}; give another") from None
    check_outputs({"--out": video, "the report": report_path})
    price = price_given()
    with unwound() as stack:
        page = stack.enter_context(panel(profiles=data_dir() / PROFILES, price_per_chip_hour=price))
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crystools-tpu-demo-")))
        print_line(console, f"Watch it at {page.url}")
        if (another := open_page()) is not None:
            print_line(console, f"It is on the page that is open already, too: {another.text}")
        print_line(console, "The model is tiny and its weights are random: the times are real.")
        checkpoint = kept_checkpoint(write_tiny_checkpoint(MODEL, temporary / "checkpoint"), data_dir())
        report = generate_watched(
            MODEL, demo_request(), checkpoint=checkpoint, out=video, report_path=report_path, console=console
        )
        print_stages(console, report, price, sentence=sentence_of(report))
        print_line(console, safe_text(f"{video}\n{report_path}"))
        if sys.stdin.isatty() and not arguments.once:
            print_line(console, f"The page stays at {page.url}; press Enter to end.")
            sys.stdin.readline()
    check_finite(report, video)


def kept_checkpoint(written: Path, folder: Path) -> Path:
    """The checkpoint in a place in `folder` that is the same for the same files: of one model are the runs
    that know how long the next will take. Where it cannot be kept it stays where it was written.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in written.rglob("*") if path.is_file()):
        digest.update(str(file.relative_to(written)).encode() + file.read_bytes())
    kept = folder / "demo" / digest.hexdigest()[:16]
    if kept.is_dir():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=kept.parent) as unfinished:
            whole = shutil.copytree(written, Path(unfinished) / "checkpoint")
            whole.rename(kept)
    except OSError as error:
        if not kept.is_dir():  # else another demo was faster
            logger.info("the checkpoint is not kept: %s", error)
            return written
    return kept


def demo_request() -> Any:
    """A video that takes about half a minute on two cores."""
    return MODELS[MODEL].request_class()(
        prompt="a paper boat drifts down a rainy street",
        height=160,
        width=288,
        num_frames=17,
        num_inference_steps=20,
        flow_shift=3.0,
        seed=42,
    )
