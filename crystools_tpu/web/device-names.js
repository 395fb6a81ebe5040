/**
 * What chips, jax's devices and their memory are called wherever somebody reads it: one name for one thing. The wire
 * keeps the machine's own words. `telemetry/device_names.py` says the same in the terminal.
 *
 * @import { Device } from "./wire.js"
 */

/** What jax calls the chips whose own name is another. @type {Record<string, string>} */
const JAX_KINDS = {
  "TPU v5 lite": "v5e",
  "TPU v5": "v5p",
  "TPU v6 lite": "v6e",
  "TPU v7x": "TPU7x",
};

/** "v6e" for "TPU v6 lite" and "TPU v6e"; what is no TPU that is known as it is. @param {string} kind */
export function kindLabel(kind) {
  return JAX_KINDS[kind] ?? kind.replace(/^TPU (?=v(2|3|4|5e|5p|6e)$)/, "");
}

/**
 * A jax device by its chip: "tpu7" for "tpu:7", and "tpu7 core 1" for "tpu:15" where a chip is two.
 *
 * @param {string} device
 * @param {Device | null} [of] The devices of its run.
 */
export function deviceLabel(device, of = null) {
  const match = /^(tpu|gpu|cpu):(\d+)$/.exec(device);
  if (!match) return device;
  const [platform, number] = [match[1], Number(match[2])];
  const perChip = of && of.platform === platform ? Math.round(of.count / of.chips) : 1;
  if (perChip <= 1) return `${platform}${number}`;
  return `${platform}${Math.floor(number / perChip)} core ${number % perChip}`;
}

/** "8 x v6e", and "2 x cpu" of what is no chip. @param {Device} device */
export function devicesLabel({ platform, count, chips, kind }) {
  const number = platform === "cpu" ? count : chips;
  return `${Number.isInteger(number) ? number : number.toFixed(1)} x ${kindLabel(kind)}`;
}

/** @type {Record<string, string>} */
const MEMORIES = { tpu: "HBM", gpu: "VRAM", cuda: "VRAM", rocm: "VRAM" };

/**
 * What the memory of these devices ("tpu7", "cuda:0") is called: HBM is a TPU's, VRAM a GPU's. Of none it is "Memory".
 *
 * @param {readonly string[]} devices
 */
export function memoryLabel(devices) {
  const names = new Set(devices.map((device) => MEMORIES[/^[a-z]*/.exec(device)?.[0] ?? ""] ?? "Memory"));
  const [name] = names;
  return names.size === 1 && name ? name : "Memory";
}
