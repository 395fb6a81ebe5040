/**
 * The wire: what the server says over the websocket and the JSON API. What is unknown is `null`.
 * Written by `make schemas` from the dataclasses.
 */

/**
 * How a run or stage stands; all but `RUNNING` are final.
 *
 * `INTERRUPTED`: its process ended without a word (killed, or the machine went down), as the history found
 * out later.
 */
export type Status = "running" | "succeeded" | "failed" | "cancelled" | "interrupted";

/**
 * The devices a run uses.
 *
 * `count` is the number of jax devices, `chips` the number of chips they make up (on v2, v3 and 7x a
 * device is half a chip); `chip_ids` name the monitor's rows (`tpu0`) that they belong to.
 */
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

/**
 * The stages a pipeline may report. A stage may occur several times in a run (one `load` a component).
 *
 * `node` is a node of a workflow, which has others in it; a pipeline does not report it.
 */
export type StageName =
  | "download"
  | "load"
  | "text_encode"
  | "image_encode"
  | "denoise"
  | "vae_encode"
  | "vae_decode"
  | "save"
  | "node";

/** What the persistent compilation cache did for a compile. */
export type CompileCache = "hit" | "miss" | "off";

/**
 * One backend compile (or its retrieval from the cache): of what, when it ended, and how long it took.
 *
 * `reason` is jax's own explanation, where it gives one.
 */
export interface CompileRecord {
  function: string | null;
  finished_unix_seconds: number;
  seconds: number;
  cache: CompileCache;
  reason: string | null;
}

/**
 * One step as the device ran it.
 *
 * `compiled` marks a step in which a compile fell (left out of the statistics). `finite` is the
 * device's own `isfinite(latents).all()`, null where the pipeline did not compute it. `kind` is the
 * pipeline's own word for steps that take alike.
 */
export interface StepRecord {
  seconds: number;
  compiled: boolean;
  finite: boolean | null;
  kind?: string;
}

/** Statistics over steps in which no compile fell. */
export interface StepSeconds {
  median: number;
  p95: number;
  min: number;
  max: number;
}

/** A ratio that carries what it was made of. `ratio = numerator / denominator`, 0..1. */
export interface Ratio {
  ratio: number;
  numerator: number;
  denominator: number;
  unit: "flop" | "byte";
  method: string;
}

/** What limits a stage: the roofline's verdict, or the host where the device waited for it. */
export type Bound = "compute" | "bandwidth" | "host";

/**
 * Device memory of one chip over one stage, in bytes. `method` says how it was read.
 *
 * `peak_bytes` is the exact peak where the method is `memory_stats`, jax's, or `torch_memory_stats`, and the
 * allocator's peak rose in this stage; otherwise it is the largest of the samples taken (`..._sampled`,
 * `live_arrays`).
 */
export interface HbmUsage {
  device: string;
  before_bytes: number;
  peak_bytes: number;
  after_bytes: number;
  limit_bytes: number | null;
  method:
    | "memory_stats"
    | "memory_stats_sampled"
    | "live_arrays"
    | "torch_memory_stats"
    | "torch_memory_stats_sampled";
}

/** A node of a workflow: its id there, its class, and its title where it has one of its own. */
export interface Node {
  id: string;
  class_type: string;
  title: string | null;
}

/**
 * What this process held of the host's memory over one stage, in bytes (resident set).
 *
 * `peak_bytes` is exact where the process's own peak rose in this stage, else the larger of both ends.
 */
export interface HostMemory {
  before_bytes: number;
  peak_bytes: number;
  after_bytes: number;
}

/**
 * One stage of one run. Durations in seconds; `flops` is the stage's model FLOPs over all its steps.
 *
 * `recompiles` counts the steps after the first in which something was compiled, with a reason each.
 * `compile_seconds` is trace, lowering and backend together; `compiles` are the backend's.
 * `predicted_step_seconds` and `predicted_hbm_peak_bytes` are the forecast's, the latter of one of `hbm`'s
 * devices. `bytes_done` of `bytes_total` are what a download has brought. `steps_by_kind` is `steps_total`
 * by kind, null where all are `full` or the kinds to come are not known. `step_seconds` leaves out the steps
 * that a step cache has skipped (kind `cached`), for they take other seconds; `step_seconds_by_kind` has
 * each kind's own, and is null where only full ones were timed. With `device_decides` nobody knows before
 * which those are: the device says of each step whether it is skipped. `flops`, `mfu` and `mbu` are of what
 * was computed, of skipped steps what is left of them. `host_wait_seconds` of the steps in which no compile
 * fell the devices had nothing to do, because the host had not handed them the next yet.
 *
 * `parent` is the position in the run's `stages` of the stage that this one is a part of: its time is in
 * that one's, and `pipeline` is the one that reports it. A `node` is a stage of a workflow's run,
 * `component` its class; while it waits for other nodes, which are no part of it, its time stands. Those
 * that are executed at the same time (asynchronous ones) overlap.
 */
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
  parent?: number | null;
  pipeline?: string | null;
  node?: Node | null;
  host_memory?: HostMemory | null;
  host_wait_seconds?: number | null;
  step_seconds_by_kind?: Record<string, StepSeconds> | null;
  device_decides?: boolean;
}

/**
 * What is expected of one stage. What is not known is null.
 *
 * `step_seconds` is the mean of its steps, without compile; `hbm_peak_bytes_per_chip` what the stage itself
 * must hold of a chip.
 */
export interface StageForecast {
  name: StageName;
  component: string | null;
  fits: boolean | null;
  step_seconds: number | null;
  hbm_peak_bytes_per_chip: number | null;
}

/** What is made: pixels and, of a video, frames. */
export interface Shape {
  height: number;
  width: number;
  num_frames: number | null;
}

/**
 * What is expected of a run, said before it begins. `method` says where it comes from.
 *
 * `hbm_limit_bytes_per_chip` is what programs may have of a chip; `would_fit` are shapes that would fit, in
 * words, where a stage does not, and `fitting_shapes` the same for programs, where they are known so.
 */
export interface Forecast {
  method: string;
  hbm_limit_bytes_per_chip: number | null;
  stages: StageForecast[];
  would_fit: string[];
  fitting_shapes?: Shape[];
}

/**
 * How a running stage stands, as everybody shows it. What its report has too is newer here.
 *
 * `eta_seconds` is what it has still to go from now on; with `eta_by_forecast` it is the forecast's alone
 * and stands, for a compile may precede the first step. `mfu`, `mbu` and `bound` are of the latest step
 * without a compile that was not skipped, of all so far for who has not heard of it. `bytes_per_second` is a
 * download's rate.
 *
 * `run_eta_seconds` is what the whole run has still to go, this stage and all those to come, and
 * `run_eta_by` says by what that is known best: alike runs of the `history`, the `plan`, or this run's own
 * `steps`. The latter two are without loading and saving, which nobody knows then.
 */
export interface StageProgress {
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
  run_eta_seconds?: number | null;
  run_eta_by?: "history" | "plan" | "steps" | null;
  step_seconds_by_kind?: Record<string, StepSeconds> | null;
}

/** The process that a run is of: its id, its user's name, and what it was started as (`generate`). */
export interface Process {
  pid: number;
  user: string | null;
  program: string | null;
}

/** A stage that a run is to have, and the model FLOPs of all its steps, over all devices. */
export interface StageWork {
  name: StageName;
  component: string | null;
  steps: number;
  flops: number;
}

/**
 * One run, whole. Also the file that `generate --report` writes.
 *
 * `forecast` is what was expected of it before it began, stages that never came included; `warnings` are
 * what its user was told while it ran. A whole number among `params` that not every reader of JSON could
 * keep, such as a seed of 64 bits, is its digits. `content_params` are the names of those that say what is
 * shown and change no time, null where the run does not say which (see `content`).
 * `progress`, of its running stage (the last of those that run), is there where a server tells of a run; see
 * `fold`.
 *
 * `work` are the stages that are to compute something, in their order, said as the run begins; of none that
 * loads or saves, and empty where the run does not say.
 *
 * `name` is what its user calls it: the workflow's. Of a workflow `cached_nodes` were not executed, since
 * what they would make was there already; `nodes_total` is how many it has with those, where that is known.
 *
 * `attachments` are the kinds of what the history keeps with it (see `Attachment`).
 */
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
  progress?: StageProgress | null;
  name?: string | null;
  process?: Process | null;
  nodes_total?: number | null;
  cached_nodes?: Node[];
  work?: StageWork[];
  attachments?: string[];
}

/** A run began; `report` is the run as known so far (status `running`, no stages). */
export interface RunStarted {
  report: RunReport;
  type: "run_started";
}

/**
 * More is known of a run than its other events say; `report` is the run as known so far.
 *
 * A workflow's run learns its prompt and devices from its nodes, and of a run of another process nothing
 * else is heard.
 */
export interface RunChanged {
  report: RunReport;
  type: "run_changed";
}

/**
 * A stage began; `stage` is its position in the run's `stages`.
 *
 * `progress` is how the stage stands after this event, where whoever passes it on has folded that (`fold`);
 * so in the events of a stage below.
 */
export interface StageStarted {
  run_id: string;
  stage: number;
  report: StageReport;
  progress?: StageProgress | null;
  type: "stage_started";
}

/**
 * The device finished step `step` (from 0). `eta_seconds` is what the stage has still to go.
 *
 * That is the steps to come times the median of the last ones, each kind apart. How many of each kind come
 * is as planned; where a step cache decides as it goes, as it went so far. `mfu`, `mbu` and `bound` are of
 * this step alone, null where a compile fell in it.
 */
export interface StepFinished {
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
  type: "step_finished";
}

/**
 * A download has brought `bytes_done` of `bytes_total`.
 *
 * `bytes_per_second` is the rate of the last seconds, `eta_seconds` what is still to come at that rate.
 */
export interface BytesTransferred {
  run_id: string;
  pipeline: string;
  stage: number;
  stage_name: StageName;
  bytes_done: number;
  bytes_total: number | null;
  bytes_per_second: number | null;
  eta_seconds: number | null;
  progress?: StageProgress | null;
  type: "bytes_transferred";
}

/**
 * A stage compiled something.
 *
 * `stage_compile_seconds` is the stage's total so far: trace, lowering and backend together, overlaps
 * counted once. `recompile` is true for the first compile in each step after the stage's first, so that
 * these add up to the stage's `recompiles`.
 */
export interface CompileFinished {
  run_id: string;
  pipeline: string;
  stage: number;
  stage_name: StageName;
  record: CompileRecord;
  stage_compile_seconds: number;
  recompile: boolean;
  progress?: StageProgress | null;
  type: "compile_finished";
}

/** A stage ended; `report` is final. */
export interface StageFinished {
  run_id: string;
  pipeline: string;
  stage: number;
  report: StageReport;
  type: "stage_finished";
}

/** A run ended; `report` is final. */
export interface RunFinished {
  report: RunReport;
  type: "run_finished";
}

/** Something that a run's user should know before it ends; also in its report's `warnings`. */
export interface RunWarned {
  run_id: string;
  pipeline: string;
  warning: string;
  type: "run_warned";
}

/**
 * A component of a model left the devices' memory; `freed_bytes` is what it held on all of them together.
 *
 * `reason`: `evicted` for another that needed the room (or because its files have changed), `freed` because
 * somebody asked for it, `out_of_memory` so that a step which had failed could be tried again. `run_id` is
 * the run that caused it, if one did.
 */
export interface ModelFreed {
  run_id: string | null;
  model: string;
  component: string;
  freed_bytes: number;
  reason: "evicted" | "freed" | "out_of_memory";
  type: "model_freed";
}

/** How a capture of jax's profiler stands; `waiting` is for a run's next step. */
export type CaptureStatus = "idle" | "waiting" | "capturing" | "written" | "failed";

/**
 * The capture of jax's profiler that was asked for last.
 *
 * `steps` were asked for, of which `steps_captured` have been handed to the devices so far; `run_id` is the
 * run they are of, and `path` the folder of the files, which are whole once the status is `written`. Idle
 * and all null: none was asked for.
 */
export interface ProfileCapture {
  status: CaptureStatus;
  steps: number | null;
  steps_captured: number;
  run_id: string | null;
  path: string | null;
  error: string | null;
}

/** A capture of jax's profiler was asked for, came on, or ended. */
export interface ProfileChanged {
  capture: ProfileCapture;
  type: "profile_changed";
}

/** A parameter, the pipeline or the device that is not the same. */
export interface Difference {
  name: string;
  a: string | number | boolean | null;
  b: string | number | boolean | null;
}

/** What is to be thought of a change. */
export type Verdict = "better" | "worse" | "same" | "noise" | "unproven";

/**
 * One figure of both runs. `ratio` is how much larger it is in B: 0.1 is 10% more.
 *
 * `verdict` is null where a figure is unknown in one of them, or says nothing about better or worse.
 * `suspect` are those in which the figure cannot be: then nothing is made of the change.
 */
export interface Change {
  name:
    | "seconds"
    | "compile_seconds"
    | "step_seconds_median"
    | "step_seconds_p95"
    | "cached_step_seconds_median"
    | "cached_steps"
    | "mfu_ratio"
    | "hbm_peak_bytes";
  a: number | null;
  b: number | null;
  ratio: number | null;
  verdict: Verdict | null;
  suspect?: ("a" | "b")[];
}

/**
 * One stage of both runs.
 *
 * They are the same by name and component, in their order where a run has several of them; of a workflow's
 * nodes by the class and the id; and only where they are parts of the same. `label` says that in words:
 * `Wan2.1 Sampler > denoise transformer`. It is `unchanged` where no figure of it changed by more than by
 * itself; the times of a stage that takes less than 1% of both runs do not count.
 */
export interface StageComparison {
  name: StageName;
  component: string | null;
  label: string;
  changes: Change[];
  unchanged: boolean;
}

/**
 * Run A, the baseline, and run B.
 *
 * `incomparable` says, a sentence each, why B's figures say nothing about A's: one of them did not do its
 * work to the end, or they did not do the same on the same devices. `remarks` are what should be known of
 * figures that can be compared all the same: that what was made is NaN, that a figure cannot be.
 * `bottom_line` is what it all comes to, in a sentence.
 */
export interface Comparison {
  a: string;
  b: string;
  a_status: Status;
  b_status: Status;
  incomparable: string[];
  differences: Difference[];
  changes: Change[];
  stages: StageComparison[];
  remarks: string[];
  bottom_line: string;
}

/** What a finding is about. */
export type Cause =
  | "nan"
  | "recompile"
  | "cold_cache"
  | "cache_miss"
  | "cache_off"
  | "cache_hit"
  | "host"
  | "mesh"
  | "evicted"
  | "new_process"
  | "download"
  | "cached_nodes"
  | "compile"
  | "load"
  | "steps"
  | "step_cache"
  | "stage"
  | "memory"
  | "better_mesh"
  | "ending";

/**
 * One thing that is to be known of a run, with its figures, and what to do about it where that is known.
 *
 * `seconds` is how much longer than in the runs it is compared with that took, negative for less; null where
 * there are none, where it is the same in them, or where it is no matter of seconds.
 */
export interface Finding {
  cause: Cause;
  text: string;
  seconds: number | null;
  remedy: string | null;
}

/**
 * What is to be said of a run that has ended.
 *
 * `sentence` is null while it runs. `verdict` is of its time without what only a first run needs (compiles
 * that are in the cache now, downloads): `unproven` where there are too few runs to know by how much it
 * changes by itself, null where there is none or it did not succeed. `alike` is how many earlier runs it is
 * compared with, five at most: of the same work, and done alike where there are such.
 */
export interface Explanation {
  run_id: string;
  sentence: string | null;
  verdict: Verdict | null;
  alike: number;
  findings: Finding[];
}

/** The server's settings, for all of its clients. */
export interface Settings {
  /** seconds between two samples */
  interval_seconds: number;
  /** the mount points to show, `null` for all that are read */
  disks: string[] | null;
  /** what one chip costs for one hour, in your own currency, `null` where nothing is to be said of costs */
  price_per_chip_hour: number | null;
}

/**
 * The first message to a websocket client.
 *
 * What is not yet known of other processes' runs follows at once, a `run_changed` each.
 */
export interface Hello {
  type: "hello";
  version: string;
  /** The simulated machine, such as v6e-8; null where the machine is real. */
  simulated: string | null;
  settings: Settings;
  /** The newest, newest first; one in progress counts as newer. */
  runs: RunReport[];
  /** Whether /api/runs/{run_id}/trace answers. */
  traces: boolean;
  /** The last capture; null where there is no /api/profile. */
  profile: ProfileCapture | null;
}

/** One chip at one moment. `chip` is its id (`tpu0`, `gpu0`, `cpu0`), the same in every source. */
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

/** One mounted file system, in bytes. */
export interface DiskReading {
  mount: string;
  used_bytes: number;
  total_bytes: number;
}

/**
 * The machine itself, or that part of it which the container may use.
 *
 * `cpu_utilization_ratio` is over the `cpu_count` CPUs that may be used, since the last read, 0..1; less
 * than one CPU is possible. `memory_total_bytes` is the memory that may be used.
 */
export interface HostReading {
  cpu_utilization_ratio: number | null;
  memory_used_bytes: number | null;
  memory_total_bytes: number | null;
  disks: DiskReading[];
  cpu_count: number | null;
  machine_cpu_count: number | null;
  machine_memory_bytes: number | null;
}

/**
 * How a source stands. `up` is null before its first read and for a source this machine lacks.
 *
 * `state` says more: a source that is up may be `idle`, because no program uses its chips; one that is not
 * yet may be `waiting` for a program to serve their metrics. `reason` says these two in words, and `error`
 * why it is absent or down.
 */
export interface SourceHealth {
  source: string;
  up: boolean | null;
  last_success_unix_seconds: number | null;
  errors_total: number;
  error: string | null;
  state: "unread" | "absent" | "up" | "idle" | "waiting" | "down";
  reason: string | null;
}

/** A process that has TPU chips open. `name` is the kernel's: the first 15 bytes of the program's. */
export interface ChipUser {
  pid: number;
  name: string;
}

/**
 * The TPU chips that the machine has, whether or not a program uses them, by sysfs.
 *
 * `pci_addresses` are those of their PCI functions: two a chip on 7x, else one. `sentence` says in plain
 * words what is known of their use while no runtime gives figures of them (`8 x v6e, idle: no program uses
 * them`), and `word` where there is little room (`idle`, `idle?`, `in use`, `no figures`); both are null
 * while one does. `users` are looked for only then, as far as this user may see.
 */
export interface AttachedChips {
  kind: string;
  count: number;
  pci_addresses: string[];
  sentence: string | null;
  word: string | null;
  users: ChipUser[];
}

/**
 * All sources at one moment, which is what the monitor publishes. Chips are in order of their number.
 *
 * `histograms` are for scrapes: they do not travel over the wire.
 */
export interface Snapshot {
  type: "snapshot";
  time_unix_seconds: number;
  simulated: boolean;
  chips: ChipReading[];
  host: HostReading | null;
  sources: SourceHealth[];
  attached: AttachedChips | null;
}

/** The answer to a websocket message that was wrong. */
export interface WireError {
  type: "error";
  field: string;
  message: string;
}

/** GET /api/health. */
export interface Health {
  version: string;
  host: string;
  port: number;
  uptime_seconds: number;
  /** The simulated machine, such as v6e-8; null where the machine is real. */
  simulated: string | null;
  /** The websocket clients that want snapshots. */
  subscribers: number;
  samples_total: number;
  sources: SourceHealth[];
  attached: AttachedChips | null;
}

/** GET /api/key. */
export interface PageKey {
  key: string;
}

/** Where a search stopped: at this run, which began then. */
export interface SearchedTo {
  run_id: string;
  started_unix_seconds: number;
}

/**
 * GET /api/runs, a page of reports, newest first.
 *
 * /api/runs/{run_id} answers one report alone, /api/runs/{run_id}/explanation what is to be said of it,
 * /api/compare a comparison.
 */
export interface RunsPage {
  runs: RunReport[];
  /** Whether there are older ones. */
  more: boolean;
  /** The ids of kept runs between them whose reports are broken or of another version. */
  unreadable: string[];
  /** Where the search stopped for now: to go on, ask for what is before that run. Else null. */
  searched_to: SearchedTo | null;
}

/**
 * What is expected of a sampler or a whole pipeline: its own seconds, and whether it fits.
 *
 * What is not known is null.
 */
export interface ExpectedNode {
  node: Node;
  seconds: number | null;
  fits: boolean | null;
  /** Why it does not fit. */
  reason: string | null;
  /** Where it does not: shapes that would. */
  would_fit: Shape[];
  /** The ids of the nodes whose widgets say the shape. */
  shape_nodes: string[];
  /** Its LoRAs as files and scales, as far as the graph says. */
  loras: string[];
}

/** POST /api/expected: what is expected of a workflow, before it begins. */
export interface Expected {
  /** The parameter `workflow` that its run will have. */
  workflow: string | null;
  /** All of it. By `history` as if nothing were cached but `cached_nodes`; by `plan` and `scaled` what the models compute, without loading and compiling. */
  seconds: number | null;
  by: "history" | "plan" | "scaled" | null;
  /** So many were cached in the runs that it is known by. */
  cached_nodes: number;
  /** What those runs took, the newest first. */
  alike_seconds: number[];
  chips: number | null;
  /** Its samplers and whole pipelines. */
  nodes: ExpectedNode[];
}

/** GET /api/runs/{run_id}/result: whether /api/runs/{run_id}/output answers, and with what. */
export interface RunResult {
  /** Of the output, such as video/mp4; null where it is not served. */
  media_type: string | null;
  /** Why it is not served, in a sentence; null where the run has no output. */
  problem: string | null;
}

/** What is wrong, and what would be right. */
export interface Fault {
  field: string;
  message: string;
}

/** The body of a 4xx answer of the API. */
export interface Refusal {
  error: Fault;
}

export type TelemetryEvent =
  | RunStarted
  | RunChanged
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
