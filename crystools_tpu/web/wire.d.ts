/**
 * The wire: what the server says over the websocket and the JSON API. The reports and events mirror the
 * dataclasses of `crystools_tpu/telemetry/events.py`, the snapshot those of `crystools_tpu/monitor`; a test
 * compares the field names. A value that is unknown is `null`.
 */

export type StageName =
  | "download"
  | "load"
  | "text_encode"
  | "image_encode"
  | "denoise"
  | "vae_encode"
  | "vae_decode"
  | "save";
export type Status = "running" | "succeeded" | "failed" | "cancelled" | "interrupted";
export type CompileCache = "hit" | "miss" | "off";
export type CaptureStatus = "idle" | "waiting" | "capturing" | "written" | "failed";
export type Bound = "compute" | "bandwidth" | "host";

export interface Ratio {
  ratio: number;
  numerator: number;
  denominator: number;
  unit: "flop" | "byte";
  method: string;
}

export interface HbmUsage {
  device: string;
  before_bytes: number;
  peak_bytes: number;
  after_bytes: number;
  limit_bytes: number | null;
  method: string;
}

export interface StepRecord {
  seconds: number;
  compiled: boolean;
  finite: boolean | null;
  /** The pipeline's word for steps that take alike; "full" where it is absent. */
  kind?: string;
}

export interface StepSeconds {
  median: number;
  p95: number;
  min: number;
  max: number;
}

export interface CompileRecord {
  function: string | null;
  finished_unix_seconds: number;
  seconds: number;
  cache: CompileCache;
  reason: string | null;
}

export interface StageForecast {
  name: StageName;
  component: string | null;
  fits: boolean | null;
  step_seconds: number | null;
  hbm_peak_bytes_per_chip: number | null;
}

export interface Forecast {
  method: string;
  hbm_limit_bytes_per_chip: number | null;
  stages: StageForecast[];
  would_fit: string[];
}

export interface StageReport {
  name: StageName;
  component: string | null;
  status: Status;
  error: string | null;
  started_unix_seconds: number;
  seconds: number | null;
  compile_seconds: number;
  compile_cache: CompileCache | null;
  compiles: CompileRecord[];
  recompiles: number;
  recompile_reasons: string[];
  steps_total: number | null;
  steps: StepRecord[];
  step_seconds: StepSeconds | null;
  first_nonfinite_step: number | null;
  flops: number | null;
  flops_method: string | null;
  mfu: Ratio | null;
  mbu: Ratio | null;
  bound: Bound | null;
  hbm: HbmUsage[];
  predicted_step_seconds: number | null;
  predicted_hbm_peak_bytes: number | null;
  bytes_total: number | null;
  bytes_done: number | null;
  steps_by_kind?: Record<string, number> | null;
}

/** How a running stage stands; what its report has too is newer here. */
export interface StageProgress {
  /** From now on; it stands while it is the forecast's alone. */
  eta_seconds: number | null;
  eta_by_forecast: boolean;
  step_seconds: StepSeconds | null;
  first_nonfinite_step: number | null;
  compile_seconds: number;
  compile_cache: CompileCache | null;
  recompiles: number;
  recompile_reasons: string[];
  mfu: Ratio | null;
  mbu: Ratio | null;
  bound: Bound | null;
  bytes_done: number | null;
  bytes_per_second: number | null;
}

export interface Device {
  platform: string;
  kind: string;
  count: number;
  chips: number;
  chip_ids: string[];
  peak_flops_per_chip: number | null;
  peak_source: string | null;
  hbm_bytes_per_chip: number | null;
  hbm_bandwidth_bytes_per_second_per_chip: number | null;
}

export interface RunReport {
  run_id: string;
  pipeline: string;
  model_id: string | null;
  params: Record<string, string | number | boolean | null>;
  status: Status;
  error: string | null;
  started_at: string;
  started_unix_seconds: number;
  total_seconds: number | null;
  output: string | null;
  device: Device | null;
  stages: StageReport[];
  forecast: Forecast | null;
  warnings: string[];
  content_params?: string[] | null;
  /** Of its running stage. */
  progress?: StageProgress | null;
}

export interface RunStarted {
  type: "run_started";
  report: RunReport;
}

export interface StageStarted {
  type: "stage_started";
  run_id: string;
  stage: number;
  report: StageReport;
  progress?: StageProgress | null;
}

export interface StepFinished {
  type: "step_finished";
  run_id: string;
  pipeline: string;
  stage: number;
  stage_name: StageName;
  step: number;
  record: StepRecord;
  steps_total: number | null;
  eta_seconds: number | null;
  mfu: Ratio | null;
  mbu: Ratio | null;
  bound: Bound | null;
  progress?: StageProgress | null;
}

export interface BytesTransferred {
  type: "bytes_transferred";
  run_id: string;
  pipeline: string;
  stage: number;
  stage_name: StageName;
  bytes_done: number;
  bytes_total: number | null;
  bytes_per_second: number | null;
  eta_seconds: number | null;
  progress?: StageProgress | null;
}

export interface CompileFinished {
  type: "compile_finished";
  run_id: string;
  pipeline: string;
  stage: number;
  stage_name: StageName;
  record: CompileRecord;
  stage_compile_seconds: number;
  recompile: boolean;
  progress?: StageProgress | null;
}

export interface StageFinished {
  type: "stage_finished";
  run_id: string;
  pipeline: string;
  stage: number;
  report: StageReport;
}

export interface RunFinished {
  type: "run_finished";
  report: RunReport;
}

export interface RunWarned {
  type: "run_warned";
  run_id: string;
  pipeline: string;
  warning: string;
}

export interface ModelFreed {
  type: "model_freed";
  run_id: string | null;
  model: string;
  component: string;
  freed_bytes: number;
  reason: "evicted" | "freed" | "out_of_memory";
}

export interface ProfileCapture {
  status: CaptureStatus;
  steps: number | null;
  steps_captured: number;
  run_id: string | null;
  path: string | null;
  error: string | null;
}

export interface ProfileChanged {
  type: "profile_changed";
  capture: ProfileCapture;
}

export interface ChipReading {
  chip: string;
  kind: string | null;
  hbm_used_bytes: number | null;
  hbm_total_bytes: number | null;
  duty_cycle_ratio: number | null;
  tensorcore_utilization_ratio: number | null;
  hbm_bandwidth_utilization_ratio: number | null;
  temperature_celsius: number | null;
}

export interface DiskReading {
  mount: string;
  used_bytes: number;
  total_bytes: number;
}

export interface HostReading {
  cpu_utilization_ratio: number | null;
  /** Null only in a snapshot of a client that did not ask for it. */
  memory_used_bytes: number | null;
  /** What may be used: the limit of the container, or else all of the machine's. */
  memory_total_bytes: number | null;
  disks: DiskReading[];
  /** What may be used, in CPUs; less than one is possible. */
  cpu_count: number | null;
  machine_cpu_count: number | null;
  machine_memory_bytes: number | null;
}

export interface SourceHealth {
  source: string;
  up: boolean | null;
  last_success_unix_seconds: number | null;
  errors_total: number;
  error: string | null;
}

export interface Snapshot {
  type: "snapshot";
  time_unix_seconds: number;
  simulated: boolean;
  chips: ChipReading[];
  host: HostReading | null;
  sources: SourceHealth[];
}

export interface Hello {
  type: "hello";
  version: string;
  /** The simulated topology ("v6e-8") or whether there is one. */
  simulated: string | boolean | null;
  settings: { interval_seconds: number };
  runs: RunReport[];
  /** Whether the server makes trace files of runs. */
  traces: boolean;
  /** The last capture of jax's profiler; null where the server makes none. */
  profile: ProfileCapture | null;
}

export interface RunsPage {
  runs: RunReport[];
  more: boolean;
  /** The ids of kept runs between them whose reports cannot be read. */
  unreadable: string[];
}

export type Verdict = "better" | "worse" | "same" | "noise" | "unproven";

export interface Change {
  name:
    | "seconds"
    | "compile_seconds"
    | "step_seconds_median"
    | "step_seconds_p95"
    | "mfu_ratio"
    | "hbm_peak_bytes";
  a: number | null;
  b: number | null;
  ratio: number | null;
  verdict: Verdict | null;
}

export interface StageComparison {
  name: StageName;
  component: string | null;
  changes: Change[];
}

export interface Difference {
  name: string;
  a: string | number | boolean | null;
  b: string | number | boolean | null;
}

export interface Comparison {
  a: string;
  b: string;
  a_status: Status;
  b_status: Status;
  /** Why B's figures say nothing about A's, a sentence each. */
  incomparable: string[];
  differences: Difference[];
  changes: Change[];
  stages: StageComparison[];
}

export interface WireError {
  type: "error";
  field: string | null;
  message: string;
}

export type TelemetryEvent =
  | RunStarted
  | StageStarted
  | StepFinished
  | BytesTransferred
  | CompileFinished
  | StageFinished
  | RunFinished
  | RunWarned
  | ModelFreed
  | ProfileChanged;

export type ServerMessage = Hello | Snapshot | WireError | TelemetryEvent;
