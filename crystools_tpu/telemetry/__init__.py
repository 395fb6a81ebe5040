"""What happened: runs, stages and steps of model pipelines, recorded and handed to whoever listens.

    with telemetry.run("my-pipeline", devices=jax.devices()) as run:
        with run.stage("denoise", steps=50, flops_per_step=13.05e15) as stage:
            for i in range(50):
                latents, done = step(latents, i)
                stage.step(done)

Standard library only; jax is looked at where the caller has loaded it.
"""

from crystools_tpu.telemetry.comparison import (
    Change,
    Comparison,
    StageComparison,
    Verdict,
    compare,
    regressions,
)
from crystools_tpu.telemetry.events import (
    WIRE_SCHEMA,
    BytesTransferred,
    CaptureStatus,
    CompileCache,
    CompileFinished,
    CompileRecord,
    Device,
    Event,
    Forecast,
    HbmUsage,
    ModelFreed,
    ProfileCapture,
    ProfileChanged,
    Ratio,
    RunFinished,
    RunReport,
    RunStarted,
    RunWarned,
    StageFinished,
    StageForecast,
    StageName,
    StageProgress,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
    StepRecord,
    StepSeconds,
    to_wire,
)
from crystools_tpu.telemetry.fold import Fold, with_progress
from crystools_tpu.telemetry.forecast import forecast_warning
from crystools_tpu.telemetry.profile import CaptureBusyError, Profiler
from crystools_tpu.telemetry.protocol import RunRecorder, StageFacts, StageRecorder
from crystools_tpu.telemetry.pubsub import Bus, Subscription
from crystools_tpu.telemetry.read_wire import report_from_json, report_from_wire
from crystools_tpu.telemetry.recorder import History, Run, TelemetryError, bus, history, profiler, run
from crystools_tpu.telemetry.silent import SilentRun, SilentStage, silent_run
from crystools_tpu.telemetry.stage import Stage
from crystools_tpu.telemetry.step_times import eta_seconds

subscribe = bus.subscribe

__all__ = [
    "WIRE_SCHEMA",
    "Bus",
    "BytesTransferred",
    "CaptureBusyError",
    "CaptureStatus",
    "Change",
    "Comparison",
    "CompileCache",
    "CompileFinished",
    "CompileRecord",
    "Device",
    "Event",
    "Fold",
    "Forecast",
    "HbmUsage",
    "History",
    "ModelFreed",
    "ProfileCapture",
    "ProfileChanged",
    "Profiler",
    "Ratio",
    "Run",
    "RunFinished",
    "RunRecorder",
    "RunReport",
    "RunStarted",
    "RunWarned",
    "SilentRun",
    "SilentStage",
    "Stage",
    "StageComparison",
    "StageFacts",
    "StageFinished",
    "StageForecast",
    "StageName",
    "StageProgress",
    "StageRecorder",
    "StageReport",
    "StageStarted",
    "Status",
    "StepFinished",
    "StepRecord",
    "StepSeconds",
    "Subscription",
    "TelemetryError",
    "Verdict",
    "bus",
    "compare",
    "eta_seconds",
    "forecast_warning",
    "history",
    "profiler",
    "regressions",
    "report_from_json",
    "report_from_wire",
    "run",
    "silent_run",
    "subscribe",
    "to_wire",
    "with_progress",
]
