"""`crystools-tpu generate`: one video from a checkpoint, watched, with a report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from crystools_tpu import telemetry
from crystools_tpu.cli.errors import CommandError, needs_pipelines
from crystools_tpu.cli.live import watch
from crystools_tpu.cli.stages import stage_table

if TYPE_CHECKING:
    from crystools_pipelines.wan21.request import Wan21Request

MODELS = ("wan2.1-t2v",)
_OPTION_OF_FIELD = {"num_frames": "frames", "num_inference_steps": "steps"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = commands.add_parser("generate", help="generate a video, with the time of every stage and step")
    parser.add_argument("model", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR|ID", help="a folder in diffusers' format, or a hub id")
    add("--prompt", required=True)
    add("--negative-prompt", default="")
    add("--height", type=int, default=720, metavar="PIXELS", help="a multiple of 16 (default: %(default)s)")
    add("--width", type=int, default=1280, metavar="PIXELS", help="a multiple of 16 (default: %(default)s)")
    add("--frames", type=int, default=81, metavar="N", help="of the form 4n+1 (default: %(default)s)")
    add("--steps", type=int, default=50, metavar="N", help="denoising steps (default: %(default)s)")
    add("--guidance-scale", type=float, default=5.0, help="1 and below: unguided (default: %(default)s)")
    add("--flow-shift", type=float, default=5.0, help="5 suits 720p, 3 suits 480p (default: %(default)s)")
    add("--seed", type=int, default=2025, help="(default: %(default)s)")
    add("--devices", type=int, default=0, metavar="N", help="0 means all (default: %(default)s)")
    add("--fps", type=int, default=16, help="frames a second of the video (default: %(default)s)")
    add("--out", type=Path, required=True, metavar="FILE", help="a video (.mp4) or the frames (.npy)")
    add("--report", type=Path, metavar="FILE", help="where to write the report (JSON)")
    add("--json", action="store_true", help="print the report (JSON) instead of the table of stages")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Generates as asked; the report is written however the run ends."""
    with needs_pipelines():
        from crystools_pipelines.runtime.errors import RequestError
        from crystools_pipelines.wan21.request import Wan21Request
    try:
        request = Wan21Request(
            prompt=arguments.prompt,
            negative_prompt=arguments.negative_prompt,
            height=arguments.height,
            width=arguments.width,
            num_frames=arguments.frames,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance_scale,
            flow_shift=arguments.flow_shift,
            seed=arguments.seed,
        )
    except RequestError as error:
        option = _OPTION_OF_FIELD.get(error.field, error.field).replace("_", "-")
        raise CommandError(f"--{option}: {error.message}") from None
    report = generate_watched(
        request,
        checkpoint=arguments.checkpoint,
        devices=arguments.devices,
        fps=arguments.fps,
        out=arguments.out,
        report_path=arguments.report,
        console=Console(stderr=arguments.json),
    )
    if arguments.json:
        print(json.dumps(telemetry.to_wire(report), indent=2))
    else:
        Console().print(stage_table(report))
        print(f"{arguments.out}")


def generate_watched(
    request: Wan21Request,
    *,
    checkpoint: str | Path,
    out: Path,
    report_path: Path | None,
    console: Console,
    devices: int = 0,
    fps: int = 16,
) -> telemetry.RunReport:
    """Generates with a progress display; writes the report however the run ends, and returns it."""
    from crystools_pipelines.runtime.errors import PipelineError
    from crystools_pipelines.wan21.pipeline import generate

    for path in (out, report_path):
        if path is not None and not path.absolute().parent.is_dir():
            raise CommandError(f"{path}: its folder does not exist; create it first")
    try:
        with watch(telemetry.bus, console):
            return generate(request, checkpoint=checkpoint, devices=devices, fps=fps, out=out).report
    except PipelineError as error:
        raise CommandError(str(error)) from None
    finally:
        reports = telemetry.history.reports()
        if report_path is not None and reports:
            write_report(reports[0], report_path)


def write_report(report: telemetry.RunReport, path: Path) -> None:
    """Writes the report as JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(telemetry.to_wire(report), indent=2) + "\n")
    partial.replace(path)
