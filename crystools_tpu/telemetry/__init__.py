"""What happened: runs, stages and steps of model pipelines, recorded and handed to whoever listens.

    with telemetry.run("my-pipeline", devices=jax.devices()) as run:
        with run.stage("denoise", steps=50, flops_per_step=13.05e15) as stage:
            for i in range(50):
                latents, done = step(latents, i)
                stage.step(done)

Standard library only; jax is looked at where the caller has loaded it.
"""

from crystools_tpu.telemetry.causes import Cause as Cause
from crystools_tpu.telemetry.causes import Finding as Finding
from crystools_tpu.telemetry.comparison import Change as Change
from crystools_tpu.telemetry.comparison import Comparison as Comparison
from crystools_tpu.telemetry.comparison import StageComparison as StageComparison
from crystools_tpu.telemetry.comparison import Verdict as Verdict
from crystools_tpu.telemetry.comparison import compare as compare
from crystools_tpu.telemetry.comparison import regressions as regressions
from crystools_tpu.telemetry.events import WIRE_SCHEMA as WIRE_SCHEMA
from crystools_tpu.telemetry.events import Attachment as Attachment
from crystools_tpu.telemetry.events import BytesTransferred as BytesTransferred
from crystools_tpu.telemetry.events import CaptureStatus as CaptureStatus
from crystools_tpu.telemetry.events import CompileCache as CompileCache
from crystools_tpu.telemetry.events import CompileFinished as CompileFinished
from crystools_tpu.telemetry.events import CompileRecord as CompileRecord
from crystools_tpu.telemetry.events import Device as Device
from crystools_tpu.telemetry.events import Event as Event
from crystools_tpu.telemetry.events import Forecast as Forecast
from crystools_tpu.telemetry.events import HbmUsage as HbmUsage
from crystools_tpu.telemetry.events import HostMemory as HostMemory
from crystools_tpu.telemetry.events import ModelFreed as ModelFreed
from crystools_tpu.telemetry.events import Node as Node
from crystools_tpu.telemetry.events import Process as Process
from crystools_tpu.telemetry.events import ProfileCapture as ProfileCapture
from crystools_tpu.telemetry.events import ProfileChanged as ProfileChanged
from crystools_tpu.telemetry.events import Ratio as Ratio
from crystools_tpu.telemetry.events import RunAttached as RunAttached
from crystools_tpu.telemetry.events import RunChanged as RunChanged
from crystools_tpu.telemetry.events import RunFinished as RunFinished
from crystools_tpu.telemetry.events import RunReport as RunReport
from crystools_tpu.telemetry.events import RunStarted as RunStarted
from crystools_tpu.telemetry.events import RunWarned as RunWarned
from crystools_tpu.telemetry.events import Shape as Shape
from crystools_tpu.telemetry.events import StageFinished as StageFinished
from crystools_tpu.telemetry.events import StageForecast as StageForecast
from crystools_tpu.telemetry.events import StageName as StageName
from crystools_tpu.telemetry.events import StageProgress as StageProgress
from crystools_tpu.telemetry.events import StageReport as StageReport
from crystools_tpu.telemetry.events import StageStarted as StageStarted
from crystools_tpu.telemetry.events import StageWork as StageWork
from crystools_tpu.telemetry.events import Status as Status
from crystools_tpu.telemetry.events import StepFinished as StepFinished
from crystools_tpu.telemetry.events import StepRecord as StepRecord
from crystools_tpu.telemetry.events import StepSeconds as StepSeconds
from crystools_tpu.telemetry.events import to_wire as to_wire
from crystools_tpu.telemetry.expectation import newest_alike as newest_alike
from crystools_tpu.telemetry.explanation import Explanation as Explanation
from crystools_tpu.telemetry.explanation import explain as explain
from crystools_tpu.telemetry.fold import Fold as Fold
from crystools_tpu.telemetry.fold import with_progress as with_progress
from crystools_tpu.telemetry.forecast import forecast_warning as forecast_warning
from crystools_tpu.telemetry.keeping import keep_runs as keep_runs
from crystools_tpu.telemetry.labels import node_label as node_label
from crystools_tpu.telemetry.labels import size_label as size_label
from crystools_tpu.telemetry.labels import stage_label as stage_label
from crystools_tpu.telemetry.node_stage import NodeFacts as NodeFacts
from crystools_tpu.telemetry.profile import CaptureBusyError as CaptureBusyError
from crystools_tpu.telemetry.profile import Profiler as Profiler
from crystools_tpu.telemetry.protocol import CachedStep as CachedStep
from crystools_tpu.telemetry.protocol import RunRecorder as RunRecorder
from crystools_tpu.telemetry.protocol import StageFacts as StageFacts
from crystools_tpu.telemetry.protocol import StageRecorder as StageRecorder
from crystools_tpu.telemetry.pubsub import Bus as Bus
from crystools_tpu.telemetry.pubsub import Subscription as Subscription
from crystools_tpu.telemetry.read_wire import report_from_json as report_from_json
from crystools_tpu.telemetry.read_wire import report_from_wire as report_from_wire
from crystools_tpu.telemetry.recorder import History as History
from crystools_tpu.telemetry.recorder import Run as Run
from crystools_tpu.telemetry.recorder import TelemetryError as TelemetryError
from crystools_tpu.telemetry.recorder import bus as bus
from crystools_tpu.telemetry.recorder import history as history
from crystools_tpu.telemetry.recorder import profiler as profiler
from crystools_tpu.telemetry.recorder import run as run
from crystools_tpu.telemetry.run_filter import RunFilter as RunFilter
from crystools_tpu.telemetry.serving import Page as Page
from crystools_tpu.telemetry.serving import serve as serve
from crystools_tpu.telemetry.silent import SilentRun as SilentRun
from crystools_tpu.telemetry.silent import SilentStage as SilentStage
from crystools_tpu.telemetry.silent import silent_run as silent_run
from crystools_tpu.telemetry.stage import Stage as Stage
from crystools_tpu.telemetry.stage_tree import running_stage as running_stage
from crystools_tpu.telemetry.step_times import eta_seconds as eta_seconds
from crystools_tpu.telemetry.words import nonfinite_note as nonfinite_note
from crystools_tpu.telemetry.words import outcome as outcome
from crystools_tpu.telemetry.words import run_warnings as run_warnings
from crystools_tpu.telemetry.workflow import WorkflowFacts as WorkflowFacts
from crystools_tpu.telemetry.workflow import WorkflowRun as WorkflowRun
from crystools_tpu.telemetry.workflow import workflow_run as workflow_run

subscribe = bus.subscribe
