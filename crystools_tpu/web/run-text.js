/**
 * What the page says about a run in words and figures.
 *
 * @import { LiveStage } from "./store.js"
 * @import { RunReport, StageReport } from "./wire.js"
 */

import {
  NOT_AVAILABLE,
  duration,
  gibibytes,
  percent,
  ratioDetail,
  stageTitle,
  statusTitle,
  usedOfTotal,
  verdict,
  wholeDuration,
} from "./format.js";
import { fullestChip, hbmOverRun } from "./run-figures.js";

/** @type {Record<string, string>} */
const VERDICTS = {
  compute: "The matrix units set the pace: fewer FLOPs or better use of the peak would help.",
  bandwidth: "HBM bandwidth sets the pace: moving fewer bytes would help.",
  host: "The chips waited for the host.",
};

/** Parameters with a place of their own. */
const PLACED_PARAMS = new Set(["prompt", "width", "height"]);

/** The pipeline, and the node of ComfyUI's whose execution the run is, if it is one. @param {RunReport} run */
export function runTitle({ pipeline, params }) {
  return params.node == null ? pipeline : `${pipeline} · ${params.node}`;
}

/** @param {RunReport} run */
export function deviceText({ device }) {
  if (!device) return "";
  const chips = Number.isInteger(device.chips) ? device.chips : device.chips.toFixed(1);
  return device.platform === "cpu"
    ? `${device.count} × ${device.kind}`
    : `${device.kind}, ${chips} chip${device.chips === 1 ? "" : "s"}`;
}

/** @param {RunReport} run @returns {[string, string][]} */
export function paramsOf({ params }) {
  const { width, height } = params;
  /** @type {[string, string][]} */
  const size = width != null && height != null ? [["size", `${width} × ${height}`]] : [];
  const rest = Object.entries(params).filter(
    ([name, value]) => !PLACED_PARAMS.has(name) && value != null && value !== "",
  );
  return [
    ...size,
    ...rest.map(
      ([name, value]) => /** @type {[string, string]} */ ([name.replaceAll("_", " "), String(value)]),
    ),
  ];
}

/** @param {RunReport} run */
export function outcome(run) {
  const last = run.status === "succeeded" ? null : run.stages.at(-1);
  return last ? `${statusTitle(run.status)} in ${stageTitle(last)}` : statusTitle(run.status);
}

/** @param {StageReport | null} stage */
export function doing(stage) {
  if (!stage) return "Starting";
  const compiling = stage.steps_total != null && stage.steps.length === 0 && stage.compile_seconds > 0;
  return compiling ? `${stageTitle(stage)}, compiling` : stageTitle(stage);
}

/**
 * How far the running stage is, in steps or in bytes: "step 7 of 50", "3.10 / 28.0 GiB, 95 MiB/s".
 *
 * @param {StageReport | null} stage
 * @param {number | null} bytesPerSecond Of a download.
 */
export function stepsText(stage, bytesPerSecond) {
  if (stage?.bytes_done != null) {
    const rate = bytesPerSecond == null ? "" : `, ${gibibytes(bytesPerSecond)}/s`;
    return usedOfTotal(stage.bytes_done, stage.bytes_total) + rate;
  }
  if (stage?.steps_total == null) return "";
  return `step ${stage.steps.length} of ${stage.steps_total}`;
}

/** @param {number | null} eta */
export function leftText(eta) {
  return eta == null ? "" : `${wholeDuration(eta)} left`;
}

/** @param {LiveStage | null} stage */
export function leftDetail(stage) {
  return `Until this stage ends${stage?.eta_by_forecast ? ", by the forecast alone" : ""}`;
}

/** @param {RunReport} run @param {ReturnType<typeof hbmOverRun>[number]} peak */
function peakText(run, { device, peakStage, method, peak_bytes, limit_bytes }) {
  const soFar = run.status === "running" ? "Of the stages that have ended: " : "";
  const share = limit_bytes ? `${percent(peak_bytes / limit_bytes)} of its limit` : "limit n/a";
  return `${soFar}${device} in ${stageTitle(peakStage)}, ${share}. Method: ${method}.`;
}

/**
 * The run's key figures: a label, a value and what the value was made of.
 *
 * @param {RunReport} run
 * @param {StageReport} stage The stage they are about.
 * @returns {[label: string, value: string, detail: string][]}
 */
export function figuresOf(run, stage) {
  const { mfu, mbu, bound } = stage;
  const compile = run.stages.reduce((total, each) => total + each.compile_seconds, 0);
  const peak = fullestChip(hbmOverRun(run));
  const unknown = run.status === "running" ? "Known when the stage ends." : "Not reported.";
  const median = `Median of the steps of ${stageTitle(stage)} without a compile.${forecastText(run, stage)}`;
  const noMfu = "No step with known FLOPs on chips with a known peak.";
  return [
    ["Step time", duration(stage.step_seconds?.median), median],
    ["MFU", percent(mfu?.ratio), mfu ? `Model FLOPs over the chips' peak. ${ratioDetail(mfu)}` : noMfu],
    ["MBU", percent(mbu?.ratio), mbu ? `Model bytes over HBM bandwidth. ${ratioDetail(mbu)}` : unknown],
    ["Verdict", verdict(bound), bound ? (VERDICTS[bound] ?? "") : unknown],
    ["HBM peak", usedOfTotal(peak?.peak_bytes, peak?.limit_bytes), peak ? peakText(run, peak) : unknown],
    ["Compile", compile > 0 ? duration(compile) : "none", "All stages together; not part of the step time."],
  ];
}

/** @param {RunReport} run @param {StageReport} stage */
function forecastText({ forecast }, { predicted_step_seconds: seconds }) {
  return forecast && seconds != null ? ` Forecast: ${duration(seconds)}, by ${forecast.method}.` : "";
}

/** @typedef {[level: "warning" | "critical", text: string]} Warning */

/** @param {RunReport} run @returns {Warning[]} */
export function warningsOf(run) {
  const unfitting = forecastWarning(run);
  return [
    .../** @type {Warning[]} */ (unfitting ? [["warning", unfitting]] : []),
    ...run.warnings.map((warning) => /** @type {Warning} */ (["warning", warning])),
    ...run.stages.flatMap((stage) => [...nanWarning(stage), ...recompileWarning(stage)]),
  ];
}

/**
 * What is expected not to fit, and what would; empty where nothing is.
 * @param {RunReport} run
 */
export function forecastWarning({ forecast }) {
  const failing = forecast?.stages.filter((stage) => stage.fits === false) ?? [];
  if (!forecast || !failing.length) return "";
  const { method, hbm_limit_bytes_per_chip: limit, would_fit: shapes } = forecast;
  const wants = failing.map((stage) => {
    const peak = stage.hbm_peak_bytes_per_chip;
    if (peak == null) return stageTitle(stage);
    const of = limit == null ? "" : ` of a chip's ${gibibytes(limit)}`;
    return `${stageTitle(stage)} wants ${gibibytes(peak)}${of}`;
  });
  const offer = shapes.length ? `; ${shapes.join(" or ")} would fit` : "";
  return `Does not fit by ${method}: ${wants.join(", ")}${offer}`;
}

/** @param {StageReport} stage @returns {Warning[]} */
function nanWarning(stage) {
  const { first_nonfinite_step: step } = stage;
  if (step == null) return [];
  return [["critical", `NaN in ${stageTitle(stage)} from step ${step} on: the output is not usable.`]];
}

/** @param {StageReport} stage @returns {Warning[]} */
function recompileWarning(stage) {
  const { recompiles, recompile_reasons: reasons } = stage;
  if (recompiles === 0) return [];
  const times = recompiles === 1 ? "once" : `${recompiles} times`;
  const why = reasons.join("; ") || NOT_AVAILABLE;
  return [["warning", `${stageTitle(stage)} recompiled ${times} after its first step: ${why}`]];
}
