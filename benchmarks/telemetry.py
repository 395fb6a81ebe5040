"""What watching costs: `python -m benchmarks.telemetry [--json FILE]`.

Each figure is a ratio against a peer measured in the same process, the two taking turns, so that a busy
machine slows both. Of several rounds the least is taken: what else runs on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")


@dataclass(frozen=True)
class Figure:
    """One measured ratio, ours over the peer's, and what was aimed at."""

    name: str
    ours: float
    peer: float
    unit: str
    target: float | None

    @property
    def ratio(self) -> float:
        """Below 1 is better than the peer."""
        return self.ours / self.peer

    @property
    def verdict(self) -> str:
        """Whether the target was met."""
        if self.target is None:
            return "no target"
        return f"target at most {self.target:g}: {'met' if self.ratio <= self.target else 'MISSED'}"


def machine() -> str:
    """What the figures were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def alternate(contenders: Sequence[Callable[[], float]], rounds: int) -> list[float]:
    """The least of each, measured in turn; the first round only warms up."""
    measured = [[contender() for contender in contenders] for _ in range(rounds + 1)][1:]
    return [min(values) for values in zip(*measured, strict=True)]


def step_record_against_otel_span(count: int = 2000, rounds: int = 9) -> Figure:
    """CPU seconds in the host's thread, which is what a step waits for, of one record of a step."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from crystools_tpu import telemetry

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter(), max_queue_size=4 * count))
    tracer = provider.get_tracer("benchmark")

    def ours() -> float:
        bus, history = telemetry.Bus(), telemetry.History()
        with telemetry.run("benchmark", bus=bus, history=history) as run, run.stage("denoise") as stage:
            start = time.thread_time()
            for _ in range(count):
                stage.step(None)
            return (time.thread_time() - start) / count

    def peer() -> float:
        start = time.thread_time()
        for step in range(count):
            with tracer.start_as_current_span("step") as span:
                span.set_attribute("step", step)
        return (time.thread_time() - start) / count

    try:
        seconds, peer_seconds = alternate((ours, peer), rounds)
        return Figure("step record / OpenTelemetry SDK span", seconds, peer_seconds, "s CPU", 0.2)
    finally:
        provider.shutdown()


@contextlib.contextmanager
def _unpaced(*args: Any, **options: Any) -> Iterator[Any]:
    """A run that neither records nor waits: the host runs ahead as far as it likes."""
    from crystools_tpu import telemetry

    with (
        telemetry.silent_run(*args, **options) as run,
        mock.patch.object(telemetry.SilentStage, "step"),
    ):
        yield run


def pipeline_with_telemetry_against_without(rounds: int = 15) -> tuple[Figure, Figure]:
    """Wall seconds of the tiny Wan2.1 pipeline, whole, from a warm compile cache.

    The first figure is what recording costs. The second adds what the pace costs: against a host that
    traces the decoder while the denoiser is still running, which only a toy model gives it time for.
    """
    from crystools_pipelines.run import generate
    from crystools_pipelines.tiny import write_tiny_checkpoint
    from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
    from crystools_tpu import telemetry

    request = Wan21Request(prompt="a boat", height=128, width=160, num_frames=9, num_inference_steps=12)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_tiny_checkpoint("wan2.1-t2v", Path(folder) / "checkpoint")

        def recorded() -> float:
            start = time.perf_counter()
            generate(request, checkpoint=checkpoint, devices=1)
            return time.perf_counter() - start

        def unrecorded(run: Callable[..., Any]) -> float:
            with mock.patch.object(telemetry, "run", run):
                return recorded()

        folders = {
            "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache"),
            "CRYSTOOLS_TPU_DATA_DIR": str(Path(folder) / "data"),  # the runs are kept, as a user's are
        }
        with mock.patch.dict(os.environ, folders):
            others = (telemetry.silent_run, _unpaced)
            seconds = alternate((recorded, *(partial(unrecorded, run) for run in others)), rounds)
    ours, paced, unpaced = seconds
    return (
        Figure("pipeline with telemetry / same pace without", ours, paced, "s", 1.01),
        Figure("pipeline with telemetry / unpaced without", ours, unpaced, "s", None),
    )


def _serve_rig(connection: Any) -> None:
    """In a process of its own, so that the server's CPU is not counted as the client's."""
    from crystools_tpu.simulation.machine import Simulation

    with Simulation("v6e-8") as simulation:
        connection.send(simulation.runtime.address)
        connection.recv()


def sample_against_tpu_info(count: int = 100, rounds: int = 9) -> Figure:
    """CPU seconds of one reading of 8 chips: HBM used and total, and duty cycle."""
    from tpu_info import device, metrics

    from crystools_tpu.simulation.sysfs import write_tree
    from crystools_tpu.simulation.topology import parse_topology
    from crystools_tpu.sources.tpu import TpuSource

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    rig = context.Process(target=_serve_rig, args=(there,))
    rig.start()
    address = here.recv()
    with tempfile.TemporaryDirectory() as folder:
        sysfs = write_tree(Path(folder), parse_topology("v6e-8"))
        source = TpuSource(sysfs=sysfs, addresses=[address])

        def ours() -> float:
            start = time.process_time()
            for _ in range(count):
                assert len(source.read().chips) == 8
            return (time.process_time() - start) / count

        def peer() -> float:
            start = time.process_time()
            for _ in range(count):
                assert len(metrics.get_chip_usage(device.TpuChip.V6E, addr=address)) == 8
            return (time.process_time() - start) / count

        try:
            seconds, peer_seconds = alternate((ours, peer), rounds)
            return Figure("8-chip sample / get_chip_usage", seconds, peer_seconds, "s CPU", 0.7)
        finally:
            source.close()
            here.send(None)
            rig.join()


def samples_while_nobody_listens(seconds: float = 3.0) -> int:
    """How many samples a started monitor takes without a subscriber."""
    from crystools_tpu.monitor import Monitor
    from crystools_tpu.sources import default_sources

    monitor = Monitor(default_sources(), interval_seconds=0.1)
    monitor.start()
    time.sleep(seconds)
    monitor.stop()
    return monitor.samples_total


def main() -> None:
    """Measures all, prints them, and writes them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args()
    figures = [
        step_record_against_otel_span(),
        sample_against_tpu_info(),
        *pipeline_with_telemetry_against_without(),
    ]
    for figure in figures:
        print(
            f"{figure.name:<44} {figure.ours:.3g} / {figure.peer:.3g} {figure.unit} = {figure.ratio:.3f}"
            f"  ({figure.verdict})"
        )
    idle = samples_while_nobody_listens()
    print(f"{'samples while nobody listens':<44} {idle}  (target 0: {'met' if idle == 0 else 'MISSED'})")
    if arguments.json is not None:
        measured = [{**asdict(figure), "ratio": figure.ratio} for figure in figures]
        result = {"machine": machine(), "figures": measured, "samples_while_nobody_listens": idle}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
