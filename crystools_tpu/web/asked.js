/** What a run was asked, in words. As `telemetry/asked.py` has it. */

import { NOT_AVAILABLE } from "./format.js";

/** @type {Record<string, string>} */
const TITLES = { loras: "LoRA" };

/** What it is to ask for nothing of what one need not ask for. @type {Record<string, string>} */
const WITHOUT = {
  step_cache: "none",
  loras: "none",
  preset: "none",
  scheduler: "the model's own",
  sigmas: "the scheduler's own",
  timesteps: "the scheduler's own",
};

/** What a parameter is called. @param {string} name */
export function askedTitle(name) {
  return TITLES[name] ?? name.replaceAll("_", " ");
}

/** The value of a parameter, in words where nothing was asked. @param {string} name @param {unknown} value */
export function askedText(name, value) {
  return String(value ?? WITHOUT[name] ?? NOT_AVAILABLE);
}

/** Of LoRAs the names alone, without their folders. @param {unknown} loras */
export function loraNames(loras) {
  return String(loras)
    .split(", ")
    .map((lora) => lora.slice(lora.lastIndexOf("/") + 1))
    .join(", ");
}
