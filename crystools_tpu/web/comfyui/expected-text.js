/**
 * What is expected of a workflow, in words.
 *
 * @import { Expected, ExpectedNode, RunReport, Shape } from "../wire.js"
 */

import { amount, costOf, rateText } from "../cost.js";
import { wholeDuration } from "../format.js";

const NUMBERS = ["no", "one", "two", "three", "four", "five"];

/** By what the time is known, where that is not the history. */
const BY = {
  plan: "By the compiler's plan, without loading and compiling.",
  scaled: "By the speed of this model's last run, without loading and compiling.",
};

/** "About 3 min 40 s · costs 0.49"; empty where nobody knows. @param {Expected} expected @param {number | null} price */
export function aboutText({ seconds, chips }, price) {
  if (seconds == null) return "";
  const cost = costOf(chips, seconds, price);
  return `About ${wholeDuration(seconds)}${cost == null ? "" : ` · costs ${amount(cost)}`}`;
}

/** By what it is known, and what is taken for granted. @param {Expected} expected @param {number | null} price */
export function aboutDetail(expected, price) {
  const { seconds, by, chips, nodes } = expected;
  if (seconds == null || by == null) {
    const misfit = nodes.some(({ fits }) => fits === false);
    return nodes.length && !misfit ? "Not known yet: the first run will tell." : "";
  }
  const known = by === "history" ? historyText(expected) : BY[by];
  const cost = chips == null || price == null ? "" : ` ${rateText(chips, price)}.`;
  return `${known}${cost}`;
}

/**
 * "With the LoRAs detail at 0.8 and 4step at 1."; empty where the workflow has none.
 *
 * @param {Expected} expected
 */
export function lorasText({ nodes }) {
  const loras = [...new Set(nodes.flatMap(({ loras }) => loras))].map(loraText);
  if (!loras.length) return "";
  const [last, ...others] = loras.reverse();
  return others.length ? `With the LoRAs ${others.reverse().join(", ")} and ${last}.` : `With the LoRA ${last}.`;
}

/** "detail at 0.8" of "style/detail.safetensors=0.8". @param {string} lora */
function loraText(lora) {
  const [, file = lora, strength] = /^(.*?)(?:=([^=]*))?$/.exec(lora) ?? [];
  const name = file.replace(/^.*[\\/]/, "").replace(/\.safetensors$/, "");
  return strength ? `${name} at ${strength}` : name;
}

/** @param {Expected} expected */
function historyText({ alike_seconds: alike, cached_nodes: cached }) {
  const [shortest, longest] = [Math.min(...alike), Math.max(...alike)].map(wholeDuration);
  const runs = alike.length === 1 ? "The last run" : `The last ${NUMBERS[alike.length]} runs`;
  const took = shortest === longest ? `took ${shortest}` : `took ${shortest} to ${longest}`;
  const nodes = `${cached} node${cached === 1 ? "" : "s"}`;
  const assumed = cached ? `With ${nodes} cached, as in ${alike.length === 1 ? "it" : "them"}.` : "If nothing is cached.";
  return `${runs} ${took}. ${assumed}`;
}

/**
 * What a run took and cost, beside what was expected of it: "Took 3 min 42 s · cost 0.49 · expected about 3 min 40 s".
 *
 * @param {RunReport} run
 * @param {number | null} expectedSeconds
 * @param {number | null} price
 */
export function tookText({ total_seconds: seconds, device }, expectedSeconds, price) {
  if (seconds == null) return "";
  const cost = costOf(device?.chips, seconds, price);
  const expected = expectedSeconds == null ? "" : ` · expected about ${wholeDuration(expectedSeconds)}`;
  return `Took ${wholeDuration(seconds)}${cost == null ? "" : ` · cost ${amount(cost)}`}${expected}`;
}

/** "Does not fit by the plan: ..." @param {ExpectedNode} node */
export function misfitText({ fits, reason }) {
  if (fits !== false) return "";
  return reason ? `Does not fit. ${reason[0]?.toUpperCase()}${reason.slice(1)}.` : "Does not fit.";
}

/** "1280 × 720 × 49 fits: use it" @param {Shape} shape */
export function offerText({ width, height, num_frames: frames }) {
  return `${width} × ${height}${frames == null ? "" : ` × ${frames}`} fits: use it`;
}
