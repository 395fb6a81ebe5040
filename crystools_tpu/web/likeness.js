/**
 * Which runs can be set beside each other, as the server judges it too.
 *
 * @import { RunReport } from "./wire.js"
 */

/** The content of a run that does not say what of its parameters is. */
const CONTENT = ["prompt", "negative_prompt", "seed", "image"];

/** Whether both are of one pipeline and model, on as many devices of one kind. @param {RunReport} a @param {RunReport} b */
export function areComparable(a, b) {
  return (
    a.run_id !== b.run_id &&
    a.pipeline === b.pipeline &&
    a.model_id === b.model_id &&
    a.device?.kind === b.device?.kind &&
    a.device?.count === b.device?.count
  );
}

/** Whether both did the same work, whatever it shows. @param {RunReport} a @param {RunReport} b */
export function areAlike(a, b) {
  const content = new Set([a, b].flatMap((run) => run.content_params ?? CONTENT));
  const names = Object.keys({ ...a.params, ...b.params }).filter((name) => !content.has(name));
  return areComparable(a, b) && names.every((name) => (a.params[name] ?? null) === (b.params[name] ?? null));
}
