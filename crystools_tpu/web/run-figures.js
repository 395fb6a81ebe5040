/**
 * What the page derives from a run's report: everything here is a pure function of its arguments.
 *
 * @import { HbmUsage, RunReport, StageReport, StepRecord } from "./wire.js"
 */

/**
 * Where a stage and its parts lie on the run's clock, in seconds since the run's start.
 *
 * @typedef {{ start: number, end: number }} Span
 * @typedef {Span & StepRecord & { index: number }} StepSpan
 * @typedef {Span & { report: StageReport, expectedEnd: number, compile: Span[], steps: StepSpan[] }} StageSpan
 */

/**
 * The running stage: the last of those that run, which is the deepest. Between two stages it is the last one.
 *
 * @param {RunReport} run
 * @returns {StageReport | null}
 */
export function runningStage({ stages }) {
  for (let index = stages.length - 1; index >= 0; index -= 1) {
    if (stages[index]?.status === "running") return stages[index] ?? null;
  }
  return stages.at(-1) ?? null;
}

/**
 * A stage and those that it is a part of, from the outermost on.
 *
 * @param {RunReport} run
 * @param {StageReport | null} stage
 * @returns {StageReport[]}
 */
export function pathTo({ stages }, stage) {
  /** @type {StageReport[]} */
  const path = [];
  for (
    let at = stage;
    at && !path.includes(at);
    at = at.parent == null ? null : (stages[at.parent] ?? null)
  ) {
    path.unshift(at);
  }
  return path;
}

/**
 * The stage that tells most about the run: the one that runs, else the one with the most model FLOPs,
 * else the longest of those with steps, else the longest.
 *
 * @param {RunReport} run
 * @returns {StageReport | null}
 */
export function mainStage(run) {
  if (run.status === "running") return runningStage(run);
  const weights = [
    (/** @type {StageReport} */ stage) => stage.flops ?? 0,
    (/** @type {StageReport} */ stage) => Number(stage.steps.length > 0),
    (/** @type {StageReport} */ stage) => stage.seconds ?? 0,
  ];
  return run.stages.reduce((/** @type {StageReport | null} */ best, stage) => {
    if (!best) return stage;
    const weight = weights.find((each) => each(stage) !== each(best));
    return weight && weight(stage) > weight(best) ? stage : best;
  }, null);
}

/**
 * How much there is to do in a stage and how much of it is done, in steps or in bytes; null where unknown.
 *
 * @param {StageReport | null} stage
 * @returns {{ done: number, total: number, unit: "Steps" | "Bytes" } | null}
 */
export function progressOf(stage) {
  if (stage?.steps_total) return { done: stage.steps.length, total: stage.steps_total, unit: "Steps" };
  if (stage?.bytes_total) return { done: stage.bytes_done ?? 0, total: stage.bytes_total, unit: "Bytes" };
  return null;
}

/**
 * The chip nearest to its limit at its peak; by bytes where no limit is known.
 * @template {HbmUsage} U
 * @param {readonly U[]} usages
 * @returns {U | null}
 */
export function fullestChip(usages) {
  const share = (/** @type {HbmUsage} */ usage) => usage.peak_bytes / (usage.limit_bytes ?? 1);
  return usages.reduce(
    (/** @type {U | null} */ worst, usage) => (!worst || share(usage) > share(worst) ? usage : worst),
    null,
  );
}

/**
 * Each chip's HBM over the whole run: before its first stage, at the peak and in which stage, after its
 * last one so far.
 *
 * @param {RunReport} run
 * @returns {(HbmUsage & { peakStage: StageReport })[]}
 */
export function hbmOverRun(run) {
  /** @type {Map<string, HbmUsage & { peakStage: StageReport }>} */
  const chips = new Map();
  for (const stage of run.stages) {
    for (const usage of stage.hbm) {
      const { before_bytes, ...peak } = chips.get(usage.device) ?? { ...usage, peakStage: stage };
      const higher = usage.peak_bytes > peak.peak_bytes ? { ...usage, peakStage: stage } : peak;
      chips.set(usage.device, { ...higher, before_bytes, after_bytes: usage.after_bytes });
    }
  }
  return [...chips.values()];
}

/**
 * How long the run has taken so far, or took: until it was last seen where nobody said when it ended.
 *
 * @param {RunReport} run
 * @param {number} nowUnixSeconds
 */
export function elapsedSeconds(run, nowUnixSeconds) {
  if (run.total_seconds != null) return run.total_seconds;
  const start = run.started_unix_seconds;
  if (run.status === "running") return Math.max(0, nowUnixSeconds - start);
  const ends = run.stages.map(
    (stage) => stage.started_unix_seconds - start + (stage.seconds ?? layOutStage(stage).seconds),
  );
  return Math.max(0, ...ends);
}

/**
 * The stages of a run laid out in time, and the seconds that the whole picture spans.
 *
 * @param {RunReport} run
 * @param {number} nowUnixSeconds
 * @param {number | null} etaSeconds What the running stage has still to go.
 * @returns {{ seconds: number, stages: StageSpan[] }}
 */
export function layOut(run, nowUnixSeconds, etaSeconds) {
  const elapsed = elapsedSeconds(run, nowUnixSeconds);
  const running = run.status === "running" ? runningStage(run) : null;
  const stages = run.stages.map((stage) => {
    const start = Math.max(0, stage.started_unix_seconds - run.started_unix_seconds);
    const inner = layOutStage(stage);
    const end = stage.seconds == null ? Math.max(start + inner.seconds, elapsed) : start + stage.seconds;
    return {
      report: stage,
      start,
      end,
      expectedEnd: stage === running && stage.seconds == null ? end + (etaSeconds ?? 0) : end,
      compile: inner.compile.map((span) => shifted(span, start)),
      steps: inner.steps.map((span) => shifted(span, start)),
    };
  });
  const last = Math.max(0, ...stages.map((stage) => stage.expectedEnd));
  return { seconds: Math.max(last, elapsed), stages };
}

/**
 * Compile and steps within one stage, from its start. The first step is timed from the stage's start and
 * the others follow one another; compile time is drawn at the start of the steps in which it fell, and
 * what fell in no step after them.
 *
 * @param {StageReport} stage
 * @returns {{ seconds: number, compile: Span[], steps: StepSpan[] }}
 */
function layOutStage(stage) {
  const inSteps = stage.steps.reduce((total, step) => total + (step.compiled ? step.seconds : 0), 0);
  const share = inSteps > 0 ? Math.min(1, stage.compile_seconds / inSteps) : 0;
  /** @type {Span[]} */
  const compile = [];
  let at = 0;
  const steps = stage.steps.map((step, index) => {
    const start = at;
    at += step.seconds;
    if (step.compiled) compile.push({ start, end: start + step.seconds * share });
    return { ...step, index, start, end: at };
  });
  const rest = Math.min(stage.compile_seconds - inSteps, (stage.seconds ?? Infinity) - at);
  if (rest > 0) compile.push({ start: at, end: at + rest });
  return { seconds: at + Math.max(0, rest), compile, steps };
}

/**
 * @template {Span} S
 * @param {S} span
 * @param {number} seconds
 * @returns {S}
 */
function shifted(span, seconds) {
  return { ...span, start: span.start + seconds, end: span.end + seconds };
}
