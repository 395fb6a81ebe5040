/**
 * A toast when something happens that the user should know before the run ends: a forecast that it will not
 * fit, a warning of the run's own, a recompile, a NaN, an eviction, memory that ran out. Once for each stage,
 * and what happens at once is one toast.
 *
 * @import { RunReport, ServerMessage } from "../wire.js"
 * @import { App, ToastMessage } from "./comfyui.js"
 */

import { gibibytes, stageTitle } from "../format.js";
import { forecastWarning, outcome, runTitle } from "../run-text.js";

const WARNING_LIFE_MILLISECONDS = 12_000;
const GATHER_MILLISECONDS = 300;

const OUT_OF_MEMORY = /out of (?:device )?memory|RESOURCE_EXHAUSTED/i;

/**
 * What is to be said: once for each `key`, where it has one.
 * @typedef {{ key: string | null, summary: string, detail: string, error: boolean }} Notice
 */

export class Toasts {
  /** @type {App} */
  #app;
  /** @type {Set<string>} */
  #said = new Set();
  /** @type {Map<string, Notice[]>} */
  #waiting = new Map();

  /** @param {App} app */
  constructor(app) {
    this.#app = app;
  }

  /** @param {ServerMessage} message */
  receive(message) {
    const notice = noticeOf(message);
    if (!notice || (notice.key && this.#said.has(notice.key))) return;
    if (notice.key) this.#said.add(notice.key);
    const waiting = this.#waiting.get(notice.summary) ?? [];
    if (!waiting.length) setTimeout(() => this.#say(notice.summary), GATHER_MILLISECONDS);
    this.#waiting.set(notice.summary, [...waiting, notice]);
  }

  /** @param {string} summary */
  #say(summary) {
    const notices = this.#waiting.get(summary) ?? [];
    this.#waiting.delete(summary);
    const detail = notices.map((notice) => notice.detail).join("\n");
    const error = notices.some((notice) => notice.error);
    /** @type {ToastMessage} */
    const message = { severity: error ? "error" : "warn", summary, detail };
    if (!error) message.life = WARNING_LIFE_MILLISECONDS;
    this.#app.extensionManager?.toast?.add(message);
  }
}

/** @param {ServerMessage} message @returns {Notice | null} */
function noticeOf(message) {
  switch (message.type) {
    case "run_started": {
      const { run_id: run } = message.report;
      const text = forecastWarning(message.report);
      if (!text) return null;
      const detail = `${runTitle(message.report)}: ${text}`;
      return { key: `forecast ${run}`, summary: "Does not fit", detail, error: false };
    }
    case "run_warned": {
      const { run_id: run, pipeline, warning } = message;
      const detail = `${pipeline}: ${warning}`;
      return { key: `warning ${run} ${warning}`, summary: "Warning", detail, error: false };
    }
    case "compile_finished": {
      if (!message.recompile) return null;
      const { run_id: run, pipeline, stage, stage_name: name, record } = message;
      const title = stageTitle({ name, component: null });
      const detail = `${pipeline}, ${title}: ${record.reason ?? "jax gives no reason"}`;
      return {
        key: `recompile ${run} ${stage}`,
        summary: "Recompiled in the middle of a run",
        detail,
        error: false,
      };
    }
    case "step_finished": {
      if (message.record.finite !== false) return null;
      const { run_id: run, pipeline, stage, stage_name: name, step } = message;
      const title = stageTitle({ name, component: null });
      const detail = `${pipeline}, ${title}, from step ${step} on: the output is not usable.`;
      return { key: `nan ${run} ${stage}`, summary: "NaN", detail, error: true };
    }
    case "model_freed": {
      const { model, component, freed_bytes: bytes, reason } = message;
      if (reason === "freed") return null; // somebody asked for it
      const summary = reason === "evicted" ? "Model evicted" : "Out of memory: models were freed";
      return { key: null, summary, detail: `${model} ${component}: ${gibibytes(bytes)}`, error: false };
    }
    case "run_finished":
      return outOfMemoryNotice(message.report) ?? nanNotice(message.report);
    default:
      return null;
  }
}

/** @param {RunReport} report @returns {Notice | null} */
function outOfMemoryNotice(report) {
  const { run_id: run, error } = report;
  if (!error || !OUT_OF_MEMORY.test(error)) return null;
  return {
    key: `memory ${run}`,
    summary: "Out of memory",
    detail: `${runTitle(report)}: ${error}`,
    error: true,
  };
}

/** Of a run whose steps nobody told of as they were made, such as another process's. @param {RunReport} report */
function nanNotice(report) {
  const stage = report.stages.findIndex(({ first_nonfinite_step: step }) => step != null);
  if (stage < 0) return null;
  const detail = `${runTitle(report)}: ${outcome(report).text}: the output is not usable.`;
  return { key: `nan ${report.run_id} ${stage}`, summary: "NaN", detail, error: true };
}
