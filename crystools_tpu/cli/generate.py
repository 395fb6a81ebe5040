"""`crystools-tpu generate`: one video from a checkpoint, watched, with a report."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from crystools_pipelines.errors import PipelineError, RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.requests.lora import Lora
from crystools_pipelines.tiny.on_demand import make_missing, tiny_location, tiny_lora_location
from crystools_tpu import telemetry
from crystools_tpu.cli.console import make_console
from crystools_tpu.cli.errors import CommandError, WorkFailed
from crystools_tpu.cli.explaining import sentence_of
from crystools_tpu.cli.exports import leaving_metrics
from crystools_tpu.cli.help import add_command
from crystools_tpu.cli.live import watch
from crystools_tpu.cli.outputs import check_distinct, check_outputs, checkpoint_files
from crystools_tpu.cli.plans import plan_first
from crystools_tpu.cli.price import price_given
from crystools_tpu.cli.requests import add_mesh, add_preset, files_read, mesh_of, options, refusal, request_of
from crystools_tpu.cli.run_tables import print_stages
from crystools_tpu.cli.signals import unwound
from crystools_tpu.data_dir import PROFILES, data_dir
from crystools_tpu.open_pages import open_page
from crystools_tpu.telemetry.text import safe_text
from crystools_tpu.telemetry.time_to_go import AlikeOf
from crystools_tpu.whole_file import reason, written_whole

if TYPE_CHECKING:
    from crystools_exporters.exporting import KeptRuns

logger = logging.getLogger(__name__)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    hub_id, prompt = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", '--prompt "a red fox in the snow"'
    parser = add_command(
        commands,
        "generate",
        "generate a video or an image, with the time of every stage and step",
        (
            "a video with a checkpoint from the hub, at the size its authors published",
            f"generate wan2.1-t2v --checkpoint {hub_id} {prompt} --out fox.mp4",
        ),
        (
            "a smaller one, with its report",
            f"generate wan2.1-t2v --checkpoint {hub_id} {prompt} --height 480 --width 832 --frames 33"
            " --steps 20 --flow-shift 3 --out fox.mp4 --report fox.json",
        ),
        (
            "a picture, on four chips",
            f"generate flux.2 --checkpoint black-forest-labs/FLUX.2-dev {prompt} --devices 4 --out fox.png",
        ),
        (
            "with LoRAs: a file of your own at 0.8, and one of the hub",
            f"generate wan2.1-t2v --checkpoint {hub_id} {prompt} --lora style.safetensors=0.8"
            " --lora org/name/motion.safetensors --out fox.mp4",
        ),
        (
            "in four steps, with a LoRA that was made for that",
            f"generate wan2.1-t2v --checkpoint Wan-AI/Wan2.1-T2V-14B-Diffusers --preset lightx2v-4step"
            f" {prompt} --out fox.mp4",
        ),
        (
            "without a download: a tiny checkpoint, of noise",
            "generate wan2.1-t2v --checkpoint tiny-wan2.1-t2v --prompt fox --height 64 --width 64 --frames 5"
            " --steps 3 --out tiny.mp4",
        ),
        more="What is not given is as the model's authors published it.",
        usage=(
            "crystools-tpu generate MODEL --checkpoint DIR|ID\n       --prompt PROMPT --out FILE [OPTION ...]"
        ),
    )
    parser.add_argument("model", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    add = parser.add_argument
    about = "a folder in diffusers' format, a hub id, or tiny-MODEL: random weights, to try it"
    add("--checkpoint", required=True, metavar="DIR|ID", help=about)
    for option in options().values():
        option.add_to(parser)
    add_preset(parser)
    add("--devices", type=int, default=0, metavar="N", help="0 means all (default: %(default)s)")
    add_mesh(parser)
    add("--plan", action="store_true", help="plan the run first: does it fit, and how long will it take")
    add("--fps", type=int, help="frames a second of the video (16)")
    add("--out", type=Path, required=True, metavar="FILE", help=".mp4, flux.2: .png; or .npy")
    add("--report", type=Path, metavar="FILE", help="where to write the report (JSON)")
    add("--textfile", type=Path, metavar="FILE", help="where to write the metrics, for node_exporter (.prom)")
    add("--pushgateway", metavar="URL", help="where to push the metrics, such as http://gateway:9091")
    add("--json", action="store_true", help="print the report (JSON) instead of the table of stages")
    about = "profile denoising steps 1 to N (at most 50; the first is 0)"
    add("--profile-steps", type=int, metavar="N", help=about)
    add("--profile-dir", type=Path, metavar="DIR", help="where to write the profile (default: with the data)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Generates as asked; the report is written however the run ends, and then its metrics."""
    from crystools_exporters.exporting import exporting

    request = with_tiny_loras(request_of(arguments))
    mesh = mesh_of(arguments.mesh)
    arguments.checkpoint = located(arguments.checkpoint, arguments.model)
    check_files(arguments, request)
    price = price_given()
    request_profile(arguments.profile_steps, arguments.profile_dir)
    metrics = leaving_metrics(textfile=arguments.textfile, pushgateway=arguments.pushgateway)
    with unwound() as stack:
        stack.enter_context(exporting())
        stack.enter_context(metrics)
        if (page := open_page()) is not None:
            with contextlib.suppress(OSError):  # nobody may be there to read it
                print(f"Watch it at {page.text}", file=sys.stderr, flush=True)
        make_tiny(arguments.checkpoint)
        for lora in request.loras:
            make_tiny(lora.location)
        if arguments.plan:
            check_video(arguments, request)
            plan_first(
                arguments.model,
                request,
                checkpoint=arguments.checkpoint,
                devices=arguments.devices,
                mesh=mesh,
            )
        report = generate_watched(
            arguments.model,
            request,
            checkpoint=arguments.checkpoint,
            devices=arguments.devices,
            mesh=mesh,
            fps=arguments.fps,
            out=arguments.out,
            report_path=arguments.report,
            console=make_console(stderr=arguments.json),
        )
        if arguments.json:
            print(json.dumps(telemetry.to_wire(report), indent=2), flush=True)
        else:
            print_stages(make_console(), report, price, sentence=sentence_of(report))
            print(safe_text(arguments.out), flush=True)
        if arguments.profile_steps is not None:
            print(profile_text(telemetry.profiler.wait()), file=sys.stderr)
        check_finite(report, arguments.out)


def located(checkpoint: str, model: str) -> str:
    """The checkpoint, or where it is or will be if that is the name of a tiny one and no folder.

    Raises CommandError for a tiny one of another model.
    """
    try:
        tiny = None if Path(checkpoint).is_dir() else tiny_location(checkpoint, model, "checkpoint")
    except RequestError as error:
        raise refusal(error) from None
    return checkpoint if tiny is None else tiny


def with_tiny_loras(request: Any) -> Any:
    """The request, with where they are or will be in place of the names of tiny LoRAs that are no files."""
    return replace(request, loras=tuple(map(_located_lora, request.loras)))


def _located_lora(lora: Lora) -> Lora:
    tiny = None if Path(lora.location).exists() else tiny_lora_location(lora.location)
    return lora if tiny is None else replace(lora, location=tiny)


def make_tiny(location: str) -> None:
    """Makes a tiny checkpoint or LoRA that is missing, and says so. Raises CommandError where that fails."""
    try:
        news = make_missing(location)
    except PipelineError as error:
        raise refusal(error) from None
    if news is not None:
        with contextlib.suppress(OSError):  # nobody may be there to read it
            print(safe_text(news), file=sys.stderr, flush=True)


def check_finite(report: telemetry.RunReport, out: Path) -> None:
    """Raises WorkFailed where what was made is not finite: the file is there, and of no use."""
    if (nan := telemetry.nonfinite_note(report)) is not None:
        raise WorkFailed(f"what was generated is of no use: {nan}; {safe_text(out)} is kept")


def check_files(arguments: argparse.Namespace, request: Any) -> None:
    """Raises CommandError for files that cannot be written, or that name the same."""
    outputs = {"--out": arguments.out, "--report": arguments.report}
    others = {"--textfile": arguments.textfile, "--profile-dir": arguments.profile_dir}
    loras = [("--lora", Path(lora.location).expanduser()) for lora in request.loras]
    read = [*files_read(arguments), *loras, *checkpoint_files(Path(arguments.checkpoint))]
    check_distinct({**outputs, **others}, read)
    check_outputs(outputs)


def check_video(arguments: argparse.Namespace, request: Any) -> None:
    """Raises CommandError for a video that could not be written; before the plan, which takes long."""
    from crystools_pipelines.runtime.job import check_output

    try:
        check_output(arguments.out, request, 1 if arguments.fps is None else arguments.fps)
    except RequestError as error:
        raise refusal(error) from None


def request_profile(steps: int | None, folder: Path | None) -> None:
    """Asks for a capture of jax's profiler. Raises CommandError for what cannot be."""
    if steps is None:
        if folder is not None:
            raise CommandError(
                "--profile-dir: says where, but --profile-steps says how many steps: give it too"
            )
        return
    try:
        telemetry.profiler.request_capture(
            folder or data_dir() / PROFILES, steps, telemetry.StageName.DENOISE
        )
    except (ValueError, telemetry.CaptureBusyError) as error:
        raise CommandError(f"--profile-steps: {error}") from None
    except OSError as error:
        raise CommandError(f"--profile-dir: {error.filename}: {error.strerror}") from None


def profile_text(capture: telemetry.ProfileCapture) -> str:
    """What became of a capture, in one line."""
    if capture.status is telemetry.CaptureStatus.WRITTEN:
        captured, asked = capture.steps_captured, capture.steps
        steps = "1 step" if captured == 1 else f"{captured} steps"
        fewer = "" if captured == asked else f", for the stage had no more of the {asked}"
        return f"profile of {steps}{fewer}: {capture.path}"
    if capture.status is telemetry.CaptureStatus.FAILED:
        return f"no profile: {capture.error}"
    return "no profile: the run came to no second denoising step"


def generate_watched(
    model: str,
    request: Any,
    *,
    checkpoint: str | Path,
    out: Path,
    report_path: Path | None,
    console: Console,
    devices: int = 0,
    mesh: MeshShape | None = None,
    fps: int | None = None,
) -> telemetry.RunReport:
    """Generates with a progress display; writes the report however the run ends, and returns it."""
    from crystools_exporters.exporting import kept_runs

    if fps is not None and MODELS[model].makes == "image":
        raise CommandError(f"--fps: {model} makes an image; leave it out")
    with unwound() as stack:
        if report_path is not None:
            stack.callback(_write_newest_report, report_path)
        try:
            stack.enter_context(watch(telemetry.bus, console, _alike_of(stack.enter_context(kept_runs()))))
            from crystools_pipelines.run import generate

            generation = generate(
                request,
                checkpoint=checkpoint,
                devices=devices,
                mesh=mesh,
                out=out,
                fps=16 if fps is None else fps,
            )
        except PipelineError as error:
            raise refusal(error) from None
    return generation.report


def _alike_of(kept: KeptRuns | None) -> AlikeOf:
    def alike(run: telemetry.RunReport) -> Sequence[telemetry.RunReport]:
        others = kept.alike(run) if kept is not None else ()
        return telemetry.newest_alike(run, [*telemetry.history.reports(), *others])

    return alike


def _write_newest_report(path: Path) -> None:
    """Writes the newest run's report as JSON, whole or not at all. Raises WorkFailed where it cannot.

    Where the run itself has failed, that comes first, and this is a warning.
    """
    reports = telemetry.history.reports()
    if not reports:
        return
    try:
        with written_whole(path) as unfinished:
            unfinished.write_text(json.dumps(telemetry.to_wire(reports[0]), indent=2) + "\n")
    except OSError as error:
        message = f"--report: {path} cannot be written: {reason(error)}; `crystools-tpu runs show` has it"
        if reports[0].status is telemetry.Status.SUCCEEDED:
            raise WorkFailed(message) from None
        logger.warning("%s", message)
