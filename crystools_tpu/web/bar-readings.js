/**
 * What the bar shows of host and chips: everything here is a pure function of the store and the choice.
 *
 * @import { MeterReading } from "./components/meter.js"
 * @import { ChipQuantity, Store } from "./store.js"
 * @import { AttachedChips, ChipReading } from "./wire.js"
 */

import { quietReading } from "./components/attached.js";
import { celsius, gibibytes, percent } from "./format.js";
import {
  capacityReading,
  cpuReading,
  diskReading,
  extreme,
  fullName,
  hbmRatio,
  namesFor,
  ramReading,
} from "./readings.js";

/** @typedef {"run" | "cpu" | "ram" | "disk" | "memory" | "duty" | "tensorcore" | "temperature"} BarMetric */

/**
 * What is to be seen.
 *
 * @typedef {object} BarChoice
 * @property {readonly BarMetric[]} metrics
 * @property {readonly string[]} hiddenDevices
 * @property {string | null} disk The mount to show; null for the root, or else the first.
 */

/** @typedef {MeterReading & { kind: "host" | "hbm" | "duty" | "tensorcore" | "temperature" | "quiet" }} BarReading */

/** The fields of the wire that each metric needs. @type {Record<BarMetric, readonly string[]>} */
export const METRIC_FIELDS = {
  run: [],
  cpu: ["cpu_utilization_ratio", "cpu_count", "machine_cpu_count"],
  ram: ["memory_used_bytes", "memory_total_bytes", "machine_memory_bytes"],
  disk: ["disks"],
  memory: ["hbm_used_bytes", "hbm_total_bytes"],
  duty: ["duty_cycle_ratio"],
  tensorcore: ["tensorcore_utilization_ratio"],
  temperature: ["temperature_celsius"],
};

/** The end of a temperature's meter: GPUs throttle between 85 and 95 °C. */
const TEMPERATURE_CEILING_CELSIUS = 100;

/** @param {Store} store @param {BarChoice} choice @returns {BarReading[]} */
export function hostReadings(store, choice) {
  const mount = chosenDisk(store, choice.disk);
  const readings = choice.metrics.flatMap((metric) => {
    if (metric === "cpu") return [cpuReading(store)];
    if (metric === "ram") return [inPercent(ramReading(store))];
    return metric === "disk" && mount != null ? [inPercent(diskReading(store, mount, "Disk"))] : [];
  });
  return readings.map((reading) => ({ ...reading, kind: "host" }));
}

/** @param {Store} store @param {string | null} chosen */
function chosenDisk(store, chosen) {
  const mounts = store.snapshot?.host?.disks.map((disk) => disk.mount) ?? [];
  return chosen ?? (mounts.includes("/") ? "/" : (mounts[0] ?? null));
}

/** The chips that are to be seen. @param {Store} store @param {BarChoice} choice */
export function shownChips(store, choice) {
  return (store.snapshot?.chips ?? []).filter((chip) => !choice.hiddenDevices.includes(chip.chip));
}

/**
 * The meters of one chip, or of many by their worst: the fullest memory, the lowest duty cycle and
 * TensorCore utilisation, the highest temperature. What these chips never told is left out.
 *
 * @param {Store} store
 * @param {BarChoice} choice
 * @param {readonly ChipReading[]} chips
 * @returns {BarReading[]}
 */
export function chipReadings(store, choice, chips) {
  const names = namesFor(chips);
  const told = (/** @type {ChipQuantity} */ quantity) =>
    chips.some((chip) => store.chipSeries(chip.chip, quantity).peak != null);
  return choice.metrics.flatMap((metric) => {
    if (metric === "memory") return [memoryReading(store, chips, names.memory)];
    if (metric === "duty") return [lowestReading(store, chips, metric, names.duty)];
    if (metric === "tensorcore" && told(metric)) return [lowestReading(store, chips, metric, "TensorCore")];
    return metric === "temperature" && told(metric) ? [temperatureReading(store, chips)] : [];
  });
}

/**
 * Grey ones in the place of those that attached chips will have. @param {AttachedChips} attached @param {BarChoice} choice
 * @returns {BarReading[]}
 */
export function quietReadings(attached, choice) {
  const names = namesFor([]);
  return choice.metrics.flatMap((metric) =>
    metric === "memory" || metric === "duty"
      ? [{ ...quietReading(attached, names[metric]), kind: /** @type {const} */ ("quiet") }]
      : [],
  );
}

/** @param {Store} store @param {readonly ChipReading[]} chips @param {string} label @returns {BarReading} */
function memoryReading(store, chips, label) {
  const chip = /** @type {ChipReading} */ (extreme(chips, hbmRatio, Math.max)?.chip ?? chips[0]);
  const { hbm_used_bytes: used, hbm_total_bytes: total } = chip;
  const series = store.chipSeries(chip.chip, "hbm");
  const reading = inPercent(capacityReading(label, used, total, series, `${label} of ${chip.chip}`));
  return { ...amongMany(reading, chips, "fullest", "▴"), kind: "hbm" };
}

/**
 * @param {Store} store
 * @param {readonly ChipReading[]} chips
 * @param {"duty" | "tensorcore"} quantity
 * @param {string} label
 * @returns {BarReading}
 */
function lowestReading(store, chips, quantity, label) {
  const read = (/** @type {ChipReading} */ chip) =>
    quantity === "duty" ? chip.duty_cycle_ratio : chip.tensorcore_utilization_ratio;
  const chip = /** @type {ChipReading} */ (extreme(chips, read, Math.min)?.chip ?? chips[0]);
  const [ratio, series] = [read(chip), store.chipSeries(chip.chip, quantity)];
  const detail = `${fullName(label)} of ${chip.chip}: ${percent(ratio)}\nPeak seen ${percent(series.peak)}`;
  const reading = { label, figure: percent(ratio), ratio, series, ceiling: 1, detail };
  return { ...amongMany(reading, chips, "lowest", "▾"), kind: quantity };
}

/** @param {Store} store @param {readonly ChipReading[]} chips @returns {BarReading} */
function temperatureReading(store, chips) {
  const read = (/** @type {ChipReading} */ candidate) => candidate.temperature_celsius;
  const chip = /** @type {ChipReading} */ (extreme(chips, read, Math.max)?.chip ?? chips[0]);
  const [degrees, series] = [read(chip), store.chipSeries(chip.chip, "temperature")];
  const reading = {
    label: "Temperature",
    figure: celsius(degrees),
    ratio: degrees == null ? null : degrees / TEMPERATURE_CEILING_CELSIUS,
    series,
    ceiling: TEMPERATURE_CEILING_CELSIUS,
    detail: `Temperature of ${chip.chip}: ${celsius(degrees)}\nPeak seen ${celsius(series.peak)}`,
  };
  return { ...amongMany(reading, chips, "highest", "▴"), kind: "temperature" };
}

/**
 * A small meter has room for the share alone; without a total it shows the bytes.
 * @param {MeterReading} reading
 */
function inPercent(reading) {
  const { ratio, series } = reading;
  const used = ratio == null ? series.values.at(-1) : null;
  return { ...reading, figure: used == null ? percent(ratio) : gibibytes(used) };
}

/**
 * @param {MeterReading} reading
 * @param {readonly ChipReading[]} chips
 * @param {string} which
 * @param {string} mark
 */
function amongMany(reading, chips, which, mark) {
  if (chips.length === 1) return reading;
  const { label, detail } = reading;
  return {
    ...reading,
    label: `${label} ${mark}`,
    detail: `${detail}\nThe ${which} of ${chips.length} ${namesFor(chips).devices}`,
  };
}
