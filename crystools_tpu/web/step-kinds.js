/**
 * Steps by kind: full ones, and those that a step cache has skipped. As `telemetry/words.py` says it.
 *
 * @import { RunReport, StageReport } from "./wire.js"
 */

import { percent } from "./format.js";

/** The kind of a step that a step cache has skipped. */
export const CACHED = "cached";

/** How many of its steps so far were skipped. @param {StageReport} stage */
export function countCached({ steps }) {
  return steps.filter((step) => step.kind === CACHED).length;
}

/** "12 full, 18 cached"; empty where none was skipped. @param {StageReport} stage */
export function kindsText(stage) {
  const cached = countCached(stage);
  return cached ? `${stage.steps.length - cached} full, ${cached} cached` : "";
}

/** What a skipped step takes; null where none was timed. @param {Pick<StageReport, "step_seconds_by_kind">} stage */
export function cachedSeconds({ step_seconds_by_kind: kinds }) {
  return kinds?.[CACHED]?.median ?? null;
}

/** "18 of 40 steps (45%) were skipped by the step cache (mag:0.12)". @param {RunReport} run @param {StageReport} stage */
export function skippedText({ params }, stage) {
  const skipped = countCached(stage);
  const count = stage.steps.length;
  const by = params.step_cache == null ? "a step cache" : `the step cache (${params.step_cache})`;
  const share = percent(skipped / (count || 1));
  return `${skipped} of ${count} steps (${share}) ${skipped === 1 ? "was" : "were"} skipped by ${by}`;
}
