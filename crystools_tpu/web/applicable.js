/**
 * Which figures a stage can have at all: for the others `-` is shown, and `n/a` for what could have been known.
 * As `telemetry/applicable.py` has it.
 *
 * @import { StageName, StageReport } from "./wire.js"
 */

import { NOT_AVAILABLE } from "./format.js";

/** What there is not to be known. */
export const NOT_APPLICABLE = "-";

/**
 * `steps` is all that is of steps, `utilisation` is MFU, MBU and what bounds them.
 * @typedef {"compile" | "steps" | "utilisation" | "memory" | "host_memory"} StageFigure
 */

/** Stages that compile nothing but by the way. @type {ReadonlySet<StageName>} */
const NOT_COMPILED = new Set(["download", "load", "save", "node"]);

/** Whether such a stage can have the figure. What it has all the same is shown. @param {StageFigure} figure @param {StageReport} stage */
export function applies(figure, stage) {
  if (figure === "compile") return !NOT_COMPILED.has(stage.name);
  if (figure === "memory") return stage.name !== "download";
  if (figure === "host_memory") return stage.name === "node";
  const hasSteps = stage.steps.length > 0 || stage.steps_total != null;
  return hasSteps && (figure === "steps" || stage.name !== "node");
}

/** Whether a text says something of a figure: a column in which none does is left out. @param {string} text */
export function says(text) {
  return !["", NOT_AVAILABLE, NOT_APPLICABLE, "none"].includes(text);
}

/** Whether a text is in place of a figure that is not there. @param {string} text */
export function isAbsent(text) {
  return text === NOT_AVAILABLE || text === NOT_APPLICABLE;
}
