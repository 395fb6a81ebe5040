/**
 * What the page says about a run in words and figures.
 *
 * @import { LiveStage } from "./store.js"
 * @import { HbmUsage, RunReport, StageProgress, StageReport, Status } from "./wire.js"
 */

import { NOT_APPLICABLE, applies } from "./applicable.js";
import { askedTitle, loraNames } from "./asked.js";
import { deviceLabel, devicesLabel, memoryLabel } from "./device-names.js";
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
import { fullestChip, hbmOverRun, mainStage, pathTo } from "./run-figures.js";
import { cachedSeconds, countCached, kindsText, skippedText } from "./step-kinds.js";
import { MARK, ratioText, suspectFigures, suspicionsOf } from "./suspicion.js";
import { nodesDone } from "./workflow-figures.js";

/** @typedef {NonNullable<StageProgress["run_eta_by"]>} EtaBy */

/** @type {Record<string, string>} */
const VERDICTS = {
  compute: "The matrix units set the pace: fewer FLOPs or better use of the peak would help.",
  bandwidth: "Memory bandwidth sets the pace: moving fewer bytes would help.",
  host: "The chips waited for the host.",
};

/** Parameters with a place of their own, and what is for machines. */
const PLACED_PARAMS = new Set(["prompt", "width", "height", "workflow", "nodes_cached"]);

/** What a workflow's run is called that has no name. */
const WORKFLOW = "Workflow";

/** The pipeline of the runs of ComfyUI's workflows. */
const COMFYUI = "comfyui";

/**
 * What the user calls the run, or else its pipeline, with the node of ComfyUI's whose execution it was, if it
 * is of the time when each had a run.
 *
 * @param {RunReport} run
 */
export function runTitle({ name, pipeline, params }) {
  if (name) return name;
  if (pipeline === COMFYUI) return WORKFLOW;
  return params.node == null ? pipeline : `${pipeline} · ${params.node}`;
}

/** Whose the run is: "generate · pid 1234 · ana". @param {RunReport} run */
export function processText({ process }) {
  if (!process) return "";
  return [process.program, `pid ${process.pid}`, process.user].filter(Boolean).join(" · ");
}

/** The models that report stages within a workflow, then the devices. @param {RunReport} run */
export function whereText(run) {
  const models = new Set(run.stages.map((stage) => stage.pipeline));
  const others = run.name && run.pipeline !== COMFYUI ? [run.pipeline] : [];
  return [...others, ...models, run.device ? devicesLabel(run.device) : ""].filter(Boolean).join(" · ");
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
    ...rest.map(([name, value]) => /** @type {[string, string]} */ ([askedTitle(name), String(value)])),
  ];
}

/**
 * What was made, and how fast, in a line: "1280×720×81 · 50 steps, 30 cached · 4.60 s a full step · MFU 39% · step
 * cache mag:0.12". What is not known is left out.
 *
 * @param {RunReport} run
 */
export function factsText(run) {
  const { width, height, num_frames: frames, step_cache: cache, loras } = run.params;
  const size = width == null || height == null ? [] : [width, height, ...(Number(frames) > 1 ? [frames] : [])];
  const stage = mainStage(run);
  const steps = stage?.name === "denoise" || stage?.step_seconds ? (stage?.steps.length ?? 0) : 0;
  const cached = stage ? countCached(stage) : 0;
  return [
    size.join("×"),
    steps ? `${steps} step${steps === 1 ? "" : "s"}${cached ? `, ${cached} cached` : ""}` : "",
    stage?.step_seconds ? `${duration(stage.step_seconds.median)} a ${cached ? "full " : ""}step` : "",
    stage?.mfu ? `MFU ${ratioText(stage.mfu)}` : "",
    cache == null ? "" : `step cache ${cache}`,
    loras == null ? "" : `LoRA ${loraNames(loras)}`,
  ]
    .filter(Boolean)
    .map((fact) => fact.replaceAll(" ", "\u00a0"))
    .join(" · ");
}

/** @typedef {"running" | "good" | "warning" | "critical" | "none"} OutcomeLevel */

/** @type {Record<Status, OutcomeLevel>} */
const LEVELS = {
  running: "running",
  succeeded: "good",
  failed: "critical",
  cancelled: "none",
  interrupted: "none",
};

/**
 * How a run ended, or stands, which is more than its status: "Succeeded, NaN from step 12", "Cancelled after 12 of
 * 50 steps". `where` says in which
 * stage it ended, where it did not come to its end.
 *
 * @param {RunReport} run
 * @returns {{ text: string, where: string, level: OutcomeLevel }}
 */
export function outcome(run) {
  const { status, stages } = run;
  const text = statusTitle(status);
  if (status !== "succeeded" && status !== "running") {
    const after = status === "cancelled" ? cancelledAfter(run) : "";
    return { text: `${text}${after}`, where: pathText(run, lastStage(run)), level: LEVELS[status] };
  }
  const nan = nanNote(stages);
  return nan
    ? { text: `${text}, ${nan}`, where: "", level: "warning" }
    : { text, where: "", level: LEVELS[status] };
}

/** " after 12 of 50 steps", of the innermost stage with steps in which the run was cancelled. @param {RunReport} run */
function cancelledAfter({ stages }) {
  const stage = [...stages].reverse().find(({ status, steps_total: total }) => status === "cancelled" && total);
  return stage ? ` after ${stage.steps.length} of ${stage.steps_total} steps` : "";
}

/**
 * Why it ended, where that is worth a line: that somebody cancelled is no error.
 * @param {Pick<RunReport, "status" | "error">} ended A run or a stage.
 */
export function reasonText({ status, error }) {
  return error && (status !== "cancelled" || error.includes(": ")) ? error : "";
}

/** "NaN from step 12", of which stage where that is not the run's only denoise. @param {StageReport[]} stages */
function nanNote(stages) {
  const first = stages.find((stage) => stage.first_nonfinite_step != null);
  if (!first) return "";
  const denoises = stages.filter((stage) => stage.name === "denoise");
  const of = denoises.length === 1 && denoises[0] === first ? "" : ` of ${stageTitle(first)}`;
  return `NaN from step ${first.first_nonfinite_step}${of}`;
}

/** The stage in which a run ended that did not come to its end. @param {RunReport} run */
function lastStage({ stages }) {
  const unfinished = stages.filter((stage) => stage.status !== "succeeded");
  return unfinished.at(-1) ?? stages.at(-1) ?? null;
}

/** A stage with the nodes that it is in. @param {RunReport} run @param {StageReport | null} stage */
function pathText(run, stage) {
  return pathTo(run, stage).map(stageTitle).join(" › ");
}

/** @param {RunReport} run @param {StageReport | null} stage */
export function doing(run, stage) {
  if (!stage) return "Starting";
  const compiling = stage.steps_total != null && stage.steps.length === 0 && stage.compile_seconds > 0;
  return compiling ? `${pathText(run, stage)}, compiling` : pathText(run, stage);
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

/**
 * The time to go, and of what: of the whole run with that of its stage beside it, or of the stage alone.
 *
 * @param {LiveStage | null} stage The running one.
 * @param {number | null} stageEta
 * @param {number | null} runEta
 * @returns {{ time: string, of: string, beside: string }}
 */
export function leftText(stage, stageEta, runEta) {
  const title = stage ? stageTitle(stage) : "";
  if (runEta != null) {
    const beside = stageEta == null ? "" : `${wholeDuration(stageEta)} of ${title}`;
    return { time: wholeDuration(runEta), of: "left of the run", beside };
  }
  if (stageEta == null) return { time: "", of: "", beside: "" };
  return { time: wholeDuration(stageEta), of: `left of ${title}`, beside: "" };
}

/** @type {Record<EtaBy, string>} */
const ETA_BY = {
  history: "by runs alike in the history",
  plan: "by the plan",
  steps: "by the steps so far",
};

/** What the time to go is known by. @param {LiveStage | null} stage @param {number | null} runEta */
export function leftDetail(stage, runEta) {
  if (runEta != null) return `Until the run ends${stage?.run_eta_by ? `, ${ETA_BY[stage.run_eta_by]}` : ""}`;
  return `Until this stage ends${stage?.eta_by_forecast ? ", by the forecast alone" : ""}`;
}

/** How far a workflow is: "5 of 8 nodes, 2 of them cached". @param {RunReport} run */
export function nodesText(run) {
  const { done, cached, total } = nodesDone(run);
  const nodes = total == null ? `${done} nodes done` : `${done} of ${total} nodes`;
  return cached ? `${nodes}, ${cached} of them cached` : nodes;
}

/**
 * What the peak of these devices' memory, or of the run's where there are none, is called.
 * @param {readonly HbmUsage[]} usages
 * @param {RunReport} run
 */
export function peakName(usages, { device }) {
  const devices = usages.length || !device ? usages.map((usage) => usage.device) : [device.platform];
  return `${memoryLabel(devices)} peak`;
}

/** @param {RunReport} run @param {ReturnType<typeof hbmOverRun>[number]} peak */
function peakText(run, { device, peakStage, method, peak_bytes, limit_bytes }) {
  const soFar = run.status === "running" ? "Of the stages that have ended: " : "";
  const share = limit_bytes ? `${percent(peak_bytes / limit_bytes)} of its limit` : "limit n/a";
  return `${soFar}${deviceLabel(device, run.device)} in ${stageTitle(peakStage)}, ${share}. Method: ${method}.`;
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
  const usages = hbmOverRun(run);
  const peak = fullestChip(usages);
  const unknown = run.status === "running" ? "Known when the stage ends." : "Not reported.";
  const kinds = kindsText(stage);
  const of = `Median of the ${kinds ? "full " : ""}steps of ${stageTitle(stage)} without a compile.`;
  const cached = cachedSeconds(stage);
  const besides = cached == null ? "" : ` A cached one takes ${duration(cached)}.`;
  const median = `${of}${besides}${forecastText(run, stage)}`;
  const noMfu = "No step with known FLOPs on chips with a known peak.";
  const ofSteps = (/** @type {string} */ text) => (applies("steps", stage) ? text : NOT_APPLICABLE);
  const used = (/** @type {string} */ text) => (applies("utilisation", stage) ? text : NOT_APPLICABLE);
  const ofPeak = peak && suspectFigures(peak.peakStage).hbm_peak_bytes ? MARK : "";
  return [
    ["Step time", ofSteps(duration(stage.step_seconds?.median)), median],
    ...(kinds ? [figure("Steps", kinds, `${skippedText(run, stage)}.`)] : []),
    ["MFU", used(ratioText(mfu)), mfu ? `Model FLOPs over the chips' peak. ${ratioDetail(mfu)}` : noMfu],
    ["MBU", used(ratioText(mbu)), mbu ? `Model bytes over memory bandwidth. ${ratioDetail(mbu)}` : unknown],
    ["Verdict", used(verdict(bound)), bound ? (VERDICTS[bound] ?? "") : unknown],
    [
      peakName(usages, run),
      usedOfTotal(peak?.peak_bytes, peak?.limit_bytes) + ofPeak,
      peak ? peakText(run, peak) : unknown,
    ],
    ["Compile", compile > 0 ? duration(compile) : "none", "All stages together; not part of the step time."],
  ];
}

/** @param {string} label @param {string} value @param {string} detail @returns {[string, string, string]} */
function figure(label, value, detail) {
  return [label, value, detail];
}

/** @param {RunReport} run @param {StageReport} stage */
function forecastText({ forecast }, stage) {
  const { predicted_step_seconds: seconds } = stage;
  if (!forecast || seconds == null) return "";
  const mean = countCached(stage) ? " on average" : "";
  return ` Forecast: ${duration(seconds)}${mean}, by ${forecast.method}.`;
}

/** @typedef {[level: "warning" | "critical", text: string]} Warning */

/** @param {RunReport} run @returns {Warning[]} */
export function warningsOf(run) {
  const unfitting = forecastWarning(run);
  return [
    .../** @type {Warning[]} */ (unfitting ? [["warning", unfitting]] : []),
    ...run.warnings.map((warning) => /** @type {Warning} */ (["warning", warning])),
    ...run.stages.flatMap((stage) => [...nanWarning(stage), ...recompileWarning(stage)]),
    ...suspicionsOf(run).map((reason) => /** @type {Warning} */ (["warning", reason])),
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
