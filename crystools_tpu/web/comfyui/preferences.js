/**
 * What this browser wants to see. Kept in its own storage: neither the server nor another browser changes
 * with it, and a tab that is open keeps what it has until it is loaded again.
 *
 * @import { BarChoice, BarMetric } from "../bar-readings.js"
 */

/**
 * @typedef {object} Values
 * @property {number} interval_seconds Between two readings; 0 is off.
 * @property {number} meter_width_pixels
 * @property {number} meter_height_pixels
 * @property {readonly string[]} hidden_metrics
 * @property {readonly string[]} hidden_devices
 * @property {string | null} disk
 * @property {boolean} node_badges Whether each node shows the time that it took last.
 * @property {number | null} price_per_chip_hour In the user's currency; null where nothing is said of costs.
 * @property {boolean} notifications Whether the browser tells of a run that ends while nobody looks.
 */

/** @typedef {{ min: number, max: number, step: number, initial: number }} Range */
/** @typedef {"interval_seconds" | "meter_width_pixels" | "meter_height_pixels"} RangeName */

/** @type {Record<RangeName, Range>} */
export const RANGES = {
  interval_seconds: { min: 0, max: 2, step: 0.25, initial: 0.5 },
  meter_width_pixels: { min: 60, max: 100, step: 1, initial: 66 },
  meter_height_pixels: { min: 16, max: 50, step: 1, initial: 30 },
};

/** In the order in which the bar has them. @type {Record<BarMetric, string>} */
export const METRIC_TITLES = {
  run: "Running workflow or stage, time left",
  memory: "HBM / VRAM",
  duty: "Duty cycle / GPU utilisation",
  tensorcore: "TensorCore utilisation",
  temperature: "Temperature",
  cpu: "CPU",
  ram: "RAM",
  disk: "Disk",
};

const METRICS = /** @type {BarMetric[]} */ (Object.keys(METRIC_TITLES));

/** Emits `change` when a value has changed. */
export class Preferences extends EventTarget {
  /** @type {Values} */
  values;
  #key;
  #storage;

  /**
   * @param {Storage | null} storage Null where the browser forbids it: then nothing is remembered.
   * @param {string} key
   */
  constructor(storage, key) {
    super();
    this.#storage = storage;
    this.#key = key;
    this.values = valid(parsed(storage?.getItem(key) ?? null));
  }

  /**
   * Changes values here, and in the storage those alone: another tab may have changed others.
   * @param {Partial<Values>} changes What is out of range is brought into it.
   */
  change(changes) {
    this.values = valid({ ...this.values, ...changes });
    this.dispatchEvent(new Event("change"));
    const kept = valid({ ...parsed(this.#storage?.getItem(this.#key) ?? null), ...changes });
    this.#storage?.setItem(this.#key, JSON.stringify(kept));
  }

  /** @returns {BarChoice} */
  get choice() {
    const { hidden_metrics: hidden, hidden_devices: hiddenDevices, disk } = this.values;
    return { metrics: METRICS.filter((metric) => !hidden.includes(metric)), hiddenDevices, disk };
  }
}

/** @param {string | null} text @returns {Record<string, unknown>} */
function parsed(text) {
  try {
    return Object(JSON.parse(text ?? "{}"));
  } catch {
    return {}; // somebody else's text under our key is no reason to show nothing
  }
}

/**
 * Each value as it may be, and the initial one for what is missing or of another kind.
 *
 * @param {Record<string, unknown>} given
 * @returns {Values}
 */
function valid(given) {
  const names = (/** @type {unknown} */ value) =>
    Array.isArray(value) ? value.filter((name) => typeof name === "string") : [];
  return {
    interval_seconds: inRange("interval_seconds", given.interval_seconds),
    meter_width_pixels: inRange("meter_width_pixels", given.meter_width_pixels),
    meter_height_pixels: inRange("meter_height_pixels", given.meter_height_pixels),
    hidden_metrics: names(given.hidden_metrics),
    hidden_devices: names(given.hidden_devices),
    disk: typeof given.disk === "string" ? given.disk : null,
    node_badges: given.node_badges === true,
    price_per_chip_hour: validPrice(given.price_per_chip_hour),
    notifications: given.notifications === true,
  };
}

/** @param {unknown} value */
function validPrice(value) {
  return typeof value === "number" && Number.isFinite(value) && value > 0 ? value : null;
}

/** @param {RangeName} name @param {unknown} value */
function inRange(name, value) {
  const { min, max, step, initial } = RANGES[name];
  if (typeof value !== "number" || !Number.isFinite(value)) return initial;
  return Math.min(max, Math.max(min, Math.round(value / step) * step));
}
