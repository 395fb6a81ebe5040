"""A machine at one fixed moment and one run of a pipeline, as events."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from crystools_exporters.prometheus import PrometheusExporter
from crystools_tpu import telemetry
from crystools_tpu.monitor import Snapshot, SourceHealth
from crystools_tpu.sources.base import (
    AttachedChips,
    ChipReading,
    DiskReading,
    Durations,
    Histograms,
    HloExecutions,
    HostReading,
    MegascaleLatencies,
)
from crystools_tpu.telemetry import (
    CompileCache,
    CompileFinished,
    CompileRecord,
    Device,
    Event,
    HbmUsage,
    ModelFreed,
    Ratio,
    RunFinished,
    RunReport,
    RunStarted,
    StageFinished,
    StageName,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
    StepRecord,
)
from tests.rigs.workflow_run import STAGES, events_of_node

PIPELINE = "wan2.1-t2v"
GIB = 1024**3

SNAPSHOT = Snapshot(
    time_unix_seconds=1_700_000_000.5,
    simulated=False,
    chips=(
        ChipReading(
            chip="tpu0",
            kind="v6e",
            hbm_used_bytes=12 * GIB,
            hbm_total_bytes=32 * GIB,
            duty_cycle_ratio=0.97,
            tensorcore_utilization_ratio=0.41,
            hbm_bandwidth_utilization_ratio=0.25,
        ),
        ChipReading(chip="tpu1", kind="v6e", hbm_total_bytes=32 * GIB, duty_cycle_ratio=0.0),
        ChipReading(chip="gpu0", hbm_used_bytes=GIB, temperature_celsius=61.0),
    ),
    host=HostReading(
        cpu_utilization_ratio=0.125,
        memory_used_bytes=3 * GIB,
        memory_total_bytes=8 * GIB,
        disks=(DiskReading("/", 10 * GIB, 100 * GIB), DiskReading('/mnt/a "b"', GIB, 2 * GIB)),
        cpu_count=2.5,
        machine_cpu_count=64,
        machine_memory_bytes=256 * GIB,
    ),
    sources=(
        SourceHealth("host", True, 1_700_000_000.25, 0, None, "up"),
        SourceHealth("tpu", False, 1_699_999_000.0, 7, "no answer within 1 s", "down"),
        SourceHealth("libtpu_sdk", True, 1_700_000_000.0, 0, None, "idle", "idle: no program uses them"),
        SourceHealth("nvml", None, None, 0, "no NVIDIA driver", "absent"),
    ),
    attached=AttachedChips("TPU v6e", 2, ("0000:00:04.0", "0000:00:05.0")),
    histograms=Histograms(
        (HloExecutions("tpu0", "tensor_core", Durations((0.001, 0.0014, 0.00196), (0, 50, 50, 0), 0.14)),),
        (MegascaleLatencies("dcn_transfer", "8MB+", Durations((0.001, 0.002), (1, 0, 2), 0.5)),),
    ),
)

STAGE = StageReport(
    name=StageName.DENOISE,
    component=None,
    status=Status.SUCCEEDED,
    error=None,
    started_unix_seconds=1_700_000_000.0,
    seconds=42.5,
    compile_seconds=30.0,
    compile_cache=CompileCache.MISS,
    compiles=(CompileRecord("jit(step)", 1_700_000_030.0, 30.0, CompileCache.MISS, None),),
    recompiles=0,
    recompile_reasons=(),
    steps_total=3,
    steps=(),
    step_seconds=None,
    first_nonfinite_step=None,
    flops=39e15,
    flops_method="architecture",
    mfu=Ratio(0.375, 3.0, 8.0, "flop", "architecture"),
    mbu=Ratio(0.0625, 1.0, 16.0, "byte", "bytes that must move"),
    bound=None,
    hbm=(HbmUsage("tpu:0", 10 * GIB, 20 * GIB, 12 * GIB, 31 * GIB, "memory_stats"),),
)

REPORT = RunReport(
    run_id="5f3c0a",
    pipeline=PIPELINE,
    model_id="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    params={"prompt": "a cat on a surfboard", "seed": 2025},
    status=Status.SUCCEEDED,
    error=None,
    started_at="2023-11-14T22:13:20.000+00:00",
    started_unix_seconds=1_700_000_000.0,
    total_seconds=42.5,
    output="cat.mp4",
    device=Device("tpu", "TPU v6 lite", 8, 8, (), 918e12, "chip table", 32 * GIB, 1638e9),
    stages=(STAGE,),
)


def step(number: int, seconds: float, *, compiled: bool = False, mfu: Ratio | None = None) -> StepFinished:
    """One denoising step."""
    record = StepRecord(seconds, compiled, True)
    return StepFinished(
        REPORT.run_id, PIPELINE, 0, StageName.DENOISE, number, record, 3, None, mfu, None, None
    )


def compile_(seconds: float, cache: CompileCache, *, recompile: bool = False) -> CompileFinished:
    """One backend compile in the denoising stage."""
    record = CompileRecord("jit(step)", 1_700_000_000.0 + seconds, seconds, cache, None)
    return CompileFinished(REPORT.run_id, PIPELINE, 0, StageName.DENOISE, record, seconds, recompile)


def stage_finished(**changes: object) -> StageFinished:
    """The end of the denoising stage, with some fields of its report changed."""
    return StageFinished(REPORT.run_id, PIPELINE, 0, dataclasses.replace(STAGE, **changes))  # type: ignore[arg-type]


RUN: tuple[Event, ...] = (
    RunStarted(dataclasses.replace(REPORT, status=Status.RUNNING, stages=())),
    StageStarted(REPORT.run_id, 0, dataclasses.replace(STAGE, status=Status.RUNNING)),
    compile_(30.0, CompileCache.MISS),
    step(0, 34.0, compiled=True),
    step(1, 4.5),
    step(2, 4.0),
    stage_finished(),
    *events_of_node(REPORT.run_id, 1, STAGES[1]),
    ModelFreed(None, "wan2.1-t2v", "text_encoder", 10 * GIB, "freed"),
    RunFinished(REPORT),
)


@dataclass
class FixedMonitor:
    """Always the same snapshot."""

    snapshot: Snapshot = SNAPSHOT
    asked: list[float] = field(default_factory=list)

    def sample(self, max_age_seconds: float) -> Snapshot:
        self.asked.append(max_age_seconds)
        return self.snapshot


@pytest.fixture
def monitor() -> FixedMonitor:
    return FixedMonitor()


@pytest.fixture
def bus() -> telemetry.Bus:
    return telemetry.Bus()


@pytest.fixture
def exporter(monitor: FixedMonitor, bus: telemetry.Bus) -> Iterator[PrometheusExporter]:
    exporter = PrometheusExporter(monitor, bus=bus, version="1.2.3", clock=lambda: 1_700_000_042.5)
    yield exporter
    exporter.close()
