/**
 * The state of the page: the server's messages folded into what the components show.
 *
 * @import { ConnectionState, ServerApi } from "./client.js"
 * @import { Filter } from "./run-search.js"
 * @import { ChipReading, Explanation, Hello, HostReading, RunReport, ServerMessage, Snapshot } from "./wire.js"
 * @import { ModelFreed, ProfileCapture, ProfileChanged, StageProgress, StageReport, TelemetryEvent } from "./wire.js"
 */

import { Series } from "./series.js";

/** Of what happens while the page is open; what is asked for besides is kept too. */
const RUNS_KEPT = 50;

/** A snapshot older than this many intervals is shown as stale. */
const STALE_INTERVALS = 4;
const STALE_SECONDS_AT_LEAST = 3;

/**
 * A stage and, while it runs, how it stands by the server's latest word.
 * @typedef {StageReport & Partial<StageProgress> & { receivedSeconds?: number }} LiveStage
 */

/**
 * The quantities that have a history.
 * @typedef {"hbm" | "duty" | "tensorcore" | "bandwidth" | "temperature"} ChipQuantity
 */

/** @returns {Record<ChipQuantity, Series>} */
function chipHistory() {
  const [hbm, duty, tensorcore, bandwidth, temperature] = Array.from({ length: 5 }, () => new Series());
  return /** @type {Record<ChipQuantity, Series>} */ ({ hbm, duty, tensorcore, bandwidth, temperature });
}

/** What a page did not ask for is null, as what is unknown. @type {Omit<ChipReading, "chip" | "kind">} */
const UNREAD_CHIP = {
  hbm_used_bytes: null,
  hbm_total_bytes: null,
  duty_cycle_ratio: null,
  tensorcore_utilization_ratio: null,
  hbm_bandwidth_utilization_ratio: null,
  temperature_celsius: null,
};
/** @type {HostReading} */
const UNREAD_HOST = {
  cpu_utilization_ratio: null,
  memory_used_bytes: null,
  memory_total_bytes: null,
  disks: [],
  cpu_count: null,
  machine_cpu_count: null,
  machine_memory_bytes: null,
};

/**
 * Emits `readings` when a snapshot has come, ten times a second where the user wants that, and `change` whenever
 * anything else that it holds has changed.
 */
export class Store extends EventTarget {
  /** @type {ConnectionState} */
  connection = "connecting";
  /** @type {Hello | null} */
  hello = null;
  /** @type {Snapshot | null} */
  snapshot = null;
  /** Newest first. @type {RunReport[]} */
  runs = [];
  /** Grows when a run comes, ends or goes, and not with what happens within one. */
  runsRevision = 0;
  /** Whether there are older runs than these; null until somebody asks. @type {boolean | null} */
  moreRuns = null;
  /** Ids of kept runs that the server cannot read. @type {Set<string>} */
  unreadableRuns = new Set();
  /** The last complaint of the server about a message of ours. @type {string | null} */
  problem = null;
  /** The last capture of jax's profiler; null where the server makes none. @type {ProfileCapture | null} */
  profile = null;
  /** How often snapshots are asked for; 0 is never, null leaves it to the server. @type {number | null} */
  chosenIntervalSeconds = null;
  /** What this browser's user pays for a chip-hour; null leaves it to the server. @type {number | null} */
  chosenPrice = null;
  /** Opens the workflow that a run was; null where the page has no place for it. @type {((run: RunReport) => Promise<void>) | null} */
  openWorkflow = null;

  /** By chip. @type {Map<string, Record<ChipQuantity, Series>>} */
  #chipSeries = new Map();
  /** @type {Map<string, Series>} */
  #hostSeries = new Map();
  #snapshotReceivedSeconds = 0;
  #clockOffsetSeconds = 0;
  /** @type {Set<string>} */
  #refetching = new Set();
  /** @type {Map<string, Promise<Explanation | null>>} */
  #explanations = new Map();
  #asking = false;
  #mostRuns = RUNS_KEPT;
  /** The last of those that were asked for: what the server tells by itself may be older. @type {RunReport | null} */
  #lastAskedFor = null;
  #api;

  /** @param {ServerApi} api Asked for older runs, and for a run of which events were lost to a slow page. */
  constructor(api) {
    super();
    this.#api = api;
  }

  get simulated() {
    return this.hello?.simulated || this.snapshot?.simulated || false;
  }

  get intervalSeconds() {
    return this.chosenIntervalSeconds ?? this.hello?.settings.interval_seconds ?? null;
  }

  /** Whether the readings on screen are no longer true: connection lost, or snapshots overdue or off. */
  get stale() {
    if (!this.snapshot) return false;
    if (this.connection !== "open" || !this.intervalSeconds) return true;
    const age = monotonicSeconds() - this.#snapshotReceivedSeconds;
    return age > Math.max(STALE_SECONDS_AT_LEAST, STALE_INTERVALS * this.intervalSeconds);
  }

  /** What a chip-hour costs, where anybody says so; nothing is said of costs else. */
  get pricePerChipHour() {
    return this.chosenPrice ?? this.hello?.settings.price_per_chip_hour ?? null;
  }

  /** The server's clock, as well as it is known. */
  get nowUnixSeconds() {
    return Date.now() / 1000 + this.#clockOffsetSeconds;
  }

  get runningRuns() {
    return this.runs.filter((run) => run.status === "running");
  }

  /** @param {ConnectionState} state */
  setConnection(state) {
    this.connection = state;
    this.#changed();
  }

  /** @param {number | null} seconds */
  setChosenInterval(seconds) {
    this.chosenIntervalSeconds = seconds;
    this.#changed();
  }

  /** @param {number | null} price */
  setChosenPrice(price) {
    if (price === this.chosenPrice) return;
    this.chosenPrice = price;
    this.#changed();
  }

  /** @param {ServerMessage} message */
  receive(message) {
    switch (message.type) {
      case "hello":
        this.hello = message;
        this.runs = message.runs.map(brought);
        this.moreRuns = null;
        this.#lastAskedFor = null;
        this.unreadableRuns.clear();
        this.#explanations.clear();
        this.runsRevision += 1;
        this.profile = message.profile;
        this.problem = null;
        break;
      case "snapshot":
        this.#receiveSnapshot(message);
        this.dispatchEvent(new Event("readings"));
        return;
      case "error":
        this.problem = message.field ? `${message.field}: ${message.message}` : message.message;
        break;
      default:
        this.#receiveEvent(message);
    }
    this.#changed();
  }

  /** Asks for the newest runs of all processes, and after that for a page of older ones. */
  async loadRuns() {
    if (this.#asking) return;
    this.#asking = true;
    const hello = this.hello;
    const before = this.moreRuns == null ? null : (this.#lastAskedFor?.run_id ?? null);
    try {
      const page = await this.#api.runs(before);
      if (hello === this.hello) {
        this.#addRuns(page?.runs ?? []);
        for (const runId of page?.unreadable ?? []) this.unreadableRuns.add(runId);
      }
      this.moreRuns = page?.more ?? false;
    } catch (error) {
      this.moreRuns = false;
      this.problem = String(error);
    } finally {
      this.#asking = false;
    }
    this.runsRevision += 1;
    this.#changed();
  }

  /**
   * What is to be said of a run that has ended: asked for once, null where the server does not say. One that
   * was taken for interrupted may still end otherwise.
   * @param {RunReport} run
   * @returns {Promise<Explanation | null>}
   */
  explanation({ run_id: runId, status }) {
    const ending = `${runId} ${status}`;
    let asked = this.#explanations.get(ending);
    if (!asked) {
      asked = this.#api.explanation(runId).catch(() => {
        this.#explanations.delete(ending);
        return null;
      });
      this.#explanations.set(ending, asked);
    }
    return asked;
  }

  /** Those runs that are meant, of all that are kept. @param {Filter} filter @param {string | null} before */
  find(filter, before) {
    return this.#api.runs(before, filter);
  }

  /** Whether the run's output is served. @param {RunReport} run */
  resultOf(run) {
    return this.#api.result(run.run_id);
  }

  /** @param {RunReport} run @param {"output" | "thumbnail" | "workflow"} what */
  urlOf(run, what) {
    return this.#api.urlOf(run.run_id, what);
  }

  /** @param {string} a @param {string} b */
  compare(a, b) {
    return this.#api.compare(a, b);
  }

  /**
   * Seconds that the running stage has still to go, or null where nobody knows.
   * @param {RunReport} run
   */
  etaSeconds(run) {
    const stage = runningStage(run);
    if (stage?.eta_seconds == null || stage.receivedSeconds == null) return null;
    if (stage.eta_by_forecast) return stage.eta_seconds;
    return Math.max(0, stage.eta_seconds - (monotonicSeconds() - stage.receivedSeconds));
  }

  /**
   * Seconds that the whole run has still to go, or null where nobody knows.
   * @param {RunReport} run
   */
  runEtaSeconds(run) {
    const stage = runningStage(run);
    if (stage?.run_eta_seconds == null || stage.receivedSeconds == null) return null;
    return Math.max(0, stage.run_eta_seconds - (monotonicSeconds() - stage.receivedSeconds));
  }

  /**
   * How fast the running stage's download comes in now, or null where nothing is downloaded.
   * @param {RunReport} run
   */
  bytesPerSecond(run) {
    return runningStage(run)?.bytes_per_second ?? null;
  }

  /**
   * MFU of the running stage at its latest step.
   * @param {RunReport} run
   */
  latestMfu(run) {
    return runningStage(run)?.mfu ?? null;
  }

  /**
   * Where the run's trace file is, or null where the server makes none.
   * @param {RunReport} run
   */
  traceUrl(run) {
    return this.hello?.traces ? this.#api.traceUrl(run.run_id) : null;
  }

  /**
   * Asks for a capture of jax's profiler. Throws the server's reason where it refuses.
   * @param {number} steps
   */
  async requestProfile(steps) {
    await this.#api.profile(steps);
  }

  /** @param {string} chip @param {ChipQuantity} quantity */
  chipSeries(chip, quantity) {
    return this.#historyOf(chip)[quantity];
  }

  /** @param {"cpu" | "ram" | `disk/${string}`} quantity */
  hostSeries(quantity) {
    let series = this.#hostSeries.get(quantity);
    if (!series) this.#hostSeries.set(quantity, (series = new Series()));
    return series;
  }

  /** @param {string} chip */
  #historyOf(chip) {
    let history = this.#chipSeries.get(chip);
    if (!history) this.#chipSeries.set(chip, (history = chipHistory()));
    return history;
  }

  /** @param {Snapshot} snapshot */
  #receiveSnapshot(snapshot) {
    snapshot.chips = snapshot.chips.map((chip) => ({ ...UNREAD_CHIP, ...chip }));
    if (snapshot.host) snapshot.host = { ...UNREAD_HOST, ...snapshot.host };
    this.snapshot = snapshot;
    this.#snapshotReceivedSeconds = monotonicSeconds();
    this.#clockOffsetSeconds = snapshot.time_unix_seconds - Date.now() / 1000;
    const here = new Set(snapshot.chips.map(({ chip }) => chip));
    // While a chip is not there its history has a gap.
    for (const chip of this.#chipSeries.keys()) {
      if (!here.has(chip)) this.#recordChip({ ...UNREAD_CHIP, chip, kind: null });
    }
    for (const chip of snapshot.chips) this.#recordChip(chip);
    const { host } = snapshot;
    if (!host) return;
    this.hostSeries("cpu").push(host.cpu_utilization_ratio);
    this.hostSeries("ram").push(host.memory_used_bytes);
    for (const disk of host.disks) this.hostSeries(`disk/${disk.mount}`).push(disk.used_bytes);
  }

  /** @param {ChipReading} chip */
  #recordChip(chip) {
    const { hbm, duty, tensorcore, bandwidth, temperature } = this.#historyOf(chip.chip);
    hbm.push(chip.hbm_used_bytes);
    duty.push(chip.duty_cycle_ratio);
    tensorcore.push(chip.tensorcore_utilization_ratio);
    bandwidth.push(chip.hbm_bandwidth_utilization_ratio);
    temperature.push(chip.temperature_celsius);
  }

  /** @param {TelemetryEvent} event */
  #receiveEvent(event) {
    if (event.type === "model_freed") return; // the chips' memory shows what it did
    if (event.type === "profile_changed") {
      if (this.profile) this.profile = event.capture;
      return;
    }
    // Of a run of another process there is no other event than that it has changed.
    if (event.type === "run_started" || event.type === "run_changed" || event.type === "run_finished") {
      this.#replaceRun(event.report);
      return;
    }
    const run = this.runs.find((candidate) => candidate.run_id === event.run_id);
    if (!run || !bring(run, event)) this.#refetch(event.run_id);
  }

  /** Those that are here already are newer than what a page has of them. @param {RunReport[]} page */
  #addRuns(page) {
    const known = new Set(this.runs.map((run) => run.run_id));
    const added = page.filter((run) => !known.has(run.run_id));
    this.runs.push(...added.map(brought));
    this.runs.sort(newestFirst);
    this.#lastAskedFor = page.at(-1) ?? this.#lastAskedFor;
    this.#mostRuns = Math.max(this.#mostRuns, this.runs.length);
  }

  /** @param {RunReport} report */
  #replaceRun(report) {
    const index = this.runs.findIndex((run) => run.run_id === report.run_id);
    const before = this.runs[index];
    if (before) this.runs[index] = brought(report);
    else {
      this.runs.push(brought(report));
      this.runs.sort(newestFirst);
      this.#makeRoom();
    }
    if (before?.status !== "running" || report.status !== "running") this.runsRevision += 1;
  }

  /** The oldest run that has ended goes; it can be asked for again. */
  #makeRoom() {
    if (this.runs.length <= this.#mostRuns) return;
    const oldest = this.runs.filter((run) => run.status !== "running").at(-1);
    if (!oldest) return;
    const index = this.runs.indexOf(oldest);
    this.runs.splice(index, 1);
    if (this.moreRuns == null) return;
    this.moreRuns = true;
    if (!this.#lastAskedFor || newestFirst(oldest, this.#lastAskedFor) <= 0)
      this.#lastAskedFor = this.runs[index - 1] ?? null;
  }

  /** @param {string} runId */
  async #refetch(runId) {
    if (this.#refetching.has(runId)) return;
    this.#refetching.add(runId);
    try {
      const report = await this.#api.run(runId);
      if (report) this.#replaceRun(report);
    } catch (error) {
      this.problem = String(error);
    } finally {
      this.#refetching.delete(runId);
    }
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * The last of those that run: a stage begins after the one that it is a part of.
 *
 * @param {RunReport} run
 * @returns {LiveStage | undefined}
 */
export function runningStage(run) {
  return run.stages.filter((stage) => stage.status === "running").at(-1);
}

/** The run as it is shown. @param {RunReport} run */
function brought(run) {
  const stage = runningStage(run);
  if (stage) update(stage, run.progress);
  return run;
}

/** As the server lists them. @param {RunReport} a @param {RunReport} b */
function newestFirst(a, b) {
  return b.started_unix_seconds - a.started_unix_seconds || (a.run_id < b.run_id ? 1 : -1);
}

/**
 * Puts what the event brings where it belongs. False where events before it were lost.
 *
 * @param {RunReport} run
 * @param {Exclude<TelemetryEvent, { report: RunReport } | ModelFreed | ProfileChanged>} event
 */
function bring(run, event) {
  if (event.type === "run_warned") {
    if (!run.warnings.includes(event.warning)) run.warnings.push(event.warning);
    return true;
  }
  if (event.type === "stage_started" || event.type === "stage_finished") {
    if (event.stage > run.stages.length) return false;
    run.stages[event.stage] = event.report;
  }
  const stage = run.stages[event.stage];
  if (!stage) return false;
  if (event.type === "step_finished") {
    if (event.step > stage.steps.length) return false;
    stage.steps[event.step] = event.record;
  }
  if (event.type !== "stage_finished") update(stage, event.progress);
  return true;
}

/** @param {LiveStage} stage @param {StageProgress | null | undefined} progress */
function update(stage, progress) {
  if (progress) Object.assign(stage, progress, { receivedSeconds: monotonicSeconds() });
}

function monotonicSeconds() {
  return performance.now() / 1000;
}
