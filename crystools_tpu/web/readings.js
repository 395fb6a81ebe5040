/**
 * Readings of host and chips as meters show them: everything here is a pure function of its arguments.
 *
 * @import { MeterReading } from "./components/meter.js"
 * @import { Series } from "./series.js"
 * @import { Store } from "./store.js"
 * @import { ChipReading } from "./wire.js"
 */

import { gibibytes, percent, usedOfTotal } from "./format.js";
import { MARK } from "./suspicion.js";

/** @param {Store} store @returns {MeterReading} */
export function cpuReading(store) {
  const host = store.snapshot?.host;
  const ratio = host?.cpu_utilization_ratio ?? null;
  const series = store.hostSeries("cpu");
  const { cpu_count: count, machine_cpu_count: machine } = host ?? {};
  const limited = count != null && machine != null && count < machine;
  const what = limited ? `CPU, of ${Number(count.toFixed(2))} ${limitText(String(machine))}` : "CPU, all cores";
  const detail = `${what}: ${percent(ratio)}\nPeak seen ${percent(series.peak)}`;
  return { label: "CPU", figure: percent(ratio), ratio, series, ceiling: 1, detail };
}

/** What stands beside a limit. @param {string} machine What the machine has. */
function limitText(machine) {
  return `(limit of the container; host ${machine})`;
}

/**
 * A quantity that can run out: memory, a disk.
 *
 * @param {string} label
 * @param {number | null | undefined} used
 * @param {number | null | undefined} total
 * @param {Series} series Of the bytes used.
 * @param {string} [name] What the tooltip calls it.
 * @param {string} [limit] What it says of the total.
 * @returns {MeterReading}
 */
export function capacityReading(label, used, total, series, name = label, limit = "") {
  const ratio = used != null && total ? used / total : null;
  const more = ratio != null && ratio > 1;
  return {
    label,
    figure: usedOfTotal(used, total) + (more ? MARK : ""),
    ratio,
    series,
    ceiling: total ?? null,
    exhaustible: true,
    detail: [
      `${name}: ${percent(ratio)}${more ? ", which cannot be: what is read of it is wrong" : ""}`,
      `Used ${gibibytes(used)}`,
      `Total ${gibibytes(total)}${limit}`,
      `Peak seen ${gibibytes(series.peak)}`,
    ].join("\n"),
  };
}

/** @param {Store} store */
export function ramReading(store) {
  const host = store.snapshot?.host;
  const { memory_used_bytes: used, memory_total_bytes: total, machine_memory_bytes: machine } = host ?? {};
  const limited = total != null && machine != null && total < machine;
  const limit = limited ? ` ${limitText(gibibytes(machine))}` : "";
  return capacityReading("RAM", used, total, store.hostSeries("ram"), "RAM", limit);
}

/** @param {Store} store @param {string} mount @param {string} [label] */
export function diskReading(store, mount, label) {
  const name = `Disk ${mount}`;
  const disk = store.snapshot?.host?.disks.find((candidate) => candidate.mount === mount);
  const series = store.hostSeries(`disk/${mount}`);
  return capacityReading(label ?? name, disk?.used_bytes, disk?.total_bytes, series, name);
}

/** @param {ChipReading} chip */
export function isTpu({ chip }) {
  return chip.startsWith("tpu");
}

const TPU_NAMES = { devices: "chips", memory: "HBM", duty: "Duty cycle", dutyInText: "duty cycle" };
const GPU_NAMES = { devices: "GPUs", memory: "VRAM", duty: "GPU util.", dutyInText: "GPU utilisation" };
const OTHER_NAMES = { ...TPU_NAMES, devices: "devices", memory: "Memory" };

/**
 * What these devices and their quantities are called; `memory` and `duty` are short enough for a meter.
 * @param {readonly ChipReading[]} chips
 */
export function namesFor(chips) {
  const areAll = (/** @type {string} */ platform) => chips.every(({ chip }) => chip.startsWith(platform));
  return areAll("tpu") ? TPU_NAMES : areAll("gpu") ? GPU_NAMES : OTHER_NAMES;
}

/** @type {Record<string, string>} */
const FULL_NAMES = {
  "GPU util.": "GPU utilisation",
  TensorCore: "TensorCore utilisation",
  Bandwidth: "Memory bandwidth",
};

/** What a small meter has no room for. @param {string} name */
export function fullName(name) {
  return FULL_NAMES[name] ?? name;
}

/** The share of a chip's HBM that is used, or null. @param {ChipReading} chip */
export function hbmRatio({ hbm_used_bytes: used, hbm_total_bytes: total }) {
  return used != null && total ? used / total : null;
}

/** So many shades a grid of chips has: nobody sees more, and a square whose shade is the same is not drawn again. */
const SHADES = 20;

/** A share as the shade of a chip's square. @param {number} ratio */
export function shade(ratio) {
  return String(Math.round(ratio * SHADES) / SHADES);
}

/**
 * The chip at one end of a quantity, and the value there; null where no chip tells it.
 *
 * @param {readonly ChipReading[]} chips
 * @param {(chip: ChipReading) => number | null} quantity
 * @param {(...values: number[]) => number} choose
 */
export function extreme(chips, quantity, choose) {
  /** @type {{ chip: ChipReading, value: number } | null} */
  let found = null;
  for (const chip of chips) {
    const value = quantity(chip);
    if (value == null || (found && choose(value, found.value) === found.value)) continue;
    found = { chip, value };
  }
  return found;
}
