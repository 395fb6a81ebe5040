/**
 * Figures that cannot be, with the reason: they are shown as they were measured, but marked, and not judged.
 * As `telemetry/suspicion.py` has it.
 *
 * @import { Change, HbmUsage, Ratio, RunReport, StageReport } from "./wire.js"
 */

import { duration, gibibytes, percent, stageTitle } from "./format.js";
import { cachedSeconds } from "./step-kinds.js";

/** What stands behind a figure that cannot be. */
export const MARK = "?";

/** What is more has any number of digits. */
const MOST_RATIO = 99.99;

/** So much more than its measured peak a CPU may do: it was measured for a moment, on whatever else ran then. */
const ROUGH = 2;

const FLOPS = "the pipeline declares too many FLOPs a step (flops_per_step)";

/** Whether an MFU or MBU cannot be: it is of more than the devices can do. @param {Ratio | null | undefined} ratio */
export function isSuspect(ratio) {
  if (!ratio) return false;
  return !(ratio.ratio >= 0 && ratio.ratio <= (peakIs(ratio, "measured") ? ROUGH : 1));
}

/** A ratio as per cent, with a mark where it cannot be. @param {Ratio | null | undefined} ratio */
export function ratioText(ratio) {
  if (ratio && ratio.ratio > MOST_RATIO) return `>${percent(MOST_RATIO)}${MARK}`;
  return percent(ratio?.ratio) + (isSuspect(ratio) ? MARK : "");
}

/**
 * Why some of the stage's figures cannot be, by the names that a comparison has for them.
 *
 * @param {StageReport} stage
 * @returns {Partial<Record<Change["name"] | "mbu_ratio", string>>}
 */
export function suspectFigures(stage) {
  const { seconds, compile_seconds: compile, step_seconds: step, mfu, mbu, hbm } = stage;
  const reasons = {
    seconds: beforeZero("time", seconds),
    compile_seconds: beforeZero("compile", compile),
    step_seconds_median: beforeZero("step", step?.median),
    step_seconds_p95: beforeZero("step p95", step?.p95),
    cached_step_seconds_median: beforeZero("skipped step", cachedSeconds(stage)),
    mfu_ratio: ofRatio("MFU", mfu),
    mbu_ratio: ofRatio("MBU", mbu),
    hbm_peak_bytes: hbm.map(ofMemory).find(Boolean),
  };
  return Object.fromEntries(Object.entries(reasons).filter(([, reason]) => reason));
}

/** What cannot be of a run's figures, a sentence each, with what to do. @param {RunReport} run @returns {string[]} */
export function suspicionsOf(run) {
  const whole = beforeZero("time", run.total_seconds);
  return [
    ...(whole ? [`Whole run: ${whole}.`] : []),
    ...run.stages.flatMap((stage) =>
      [...new Set(Object.values(suspectFigures(stage)))].map((reason) => `${stageTitle(stage)}: ${reason}.`),
    ),
  ];
}

/** @param {string} name @param {Ratio | null} ratio */
function ofRatio(name, ratio) {
  if (!ratio || !isSuspect(ratio)) return "";
  return `${name} ${percent(ratio.ratio)} cannot be, it is more than the devices can do: ${causes(ratio)}`;
}

/** @param {Ratio} ratio */
function causes(ratio) {
  if (ratio.unit === "byte") return "the pipeline declares too many bytes a step (bytes_per_step)";
  if (peakIs(ratio, "measured")) {
    return `${FLOPS}, or the peak that was measured of the CPU is far too low (give peak_flops_per_chip)`;
  }
  if (peakIs(ratio, "given")) {
    return `${FLOPS}, or the peak that was given (peak_flops_per_chip) is too low`;
  }
  return `${FLOPS}, or it computes in a format that is faster than bf16, whose peak this is of`;
}

/** @param {Ratio} ratio @param {string} how */
function peakIs({ method }, how) {
  return method.includes(`peak: ${how}`);
}

/** torch's is left out: with some drivers it may have more than the device. @param {HbmUsage} usage */
function ofMemory({ device, peak_bytes: peak, limit_bytes: limit, method }) {
  if (peak >= 0 && (limit == null || peak <= limit || !method.startsWith("memory_stats"))) return "";
  const of = limit == null ? "" : ` of ${gibibytes(limit)}`;
  const where = `HBM peak ${gibibytes(peak)}${of} on ${device}`;
  return `${where} cannot be: what ${method} says is wrong; update libtpu or the driver`;
}

/** @param {string} name @param {number | null | undefined} seconds */
function beforeZero(name, seconds) {
  if (seconds == null || seconds >= 0) return "";
  return `${name} ${duration(seconds)} cannot be: the report was altered, or is of a clock that was set back`;
}
