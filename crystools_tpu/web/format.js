/**
 * Numbers as people read them: GiB, s, TFLOP, per cent. What is unknown reads `n/a`, never 0.
 *
 * @import { Bound, Ratio, StageName, StageReport, Status } from "./wire.js"
 */

export const NOT_AVAILABLE = "n/a";

/** By the digits after the point. Made once: it costs a hundred times what a number costs to be written by it. */
const FORMATS = [0, 1, 2, 3].map(
  (digits) => new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }),
);

const GIB = 2 ** 30;
const MIB = 2 ** 20;

/**
 * A number with about three significant digits and thousands separators: 0.052, 4.54, 38.2, 13,050.
 * @param {number} value
 */
export function figure(value) {
  const size = Math.abs(value);
  const digits = size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return /** @type {Intl.NumberFormat} */ (FORMATS[digits]).format(value);
}

/**
 * A ratio in 0..1 as per cent: 39%, and with a decimal below 10%.
 * @param {number | null | undefined} ratio
 */
export function percent(ratio) {
  if (ratio == null) return NOT_AVAILABLE;
  const value = ratio * 100;
  return `${value.toFixed(value > 0 && value < 9.95 ? 1 : 0)}%`;
}

/**
 * Bytes in GiB, or in MiB below a tenth of one.
 * @param {number | null | undefined} bytes
 */
export function gibibytes(bytes) {
  if (bytes == null) return NOT_AVAILABLE;
  return bytes !== 0 && bytes < GIB / 10 ? `${figure(bytes / MIB)} MiB` : `${figure(bytes / GIB)} GiB`;
}

/**
 * "23.1 / 31.2 GiB"; a part that is unknown reads n/a.
 * @param {number | null | undefined} used
 * @param {number | null | undefined} total
 */
export function usedOfTotal(used, total) {
  if (used == null && total == null) return NOT_AVAILABLE;
  return bytesPair(used, total, "/");
}

/** "8.10 → 12.3 GiB". @param {number} before @param {number} after */
export function beforeAfter(before, after) {
  return bytesPair(before, after, "→");
}

/** @param {number | null | undefined} one @param {number | null | undefined} other @param {string} sign */
function bytesPair(one, other, sign) {
  const [left, right] = [gibibytes(one), gibibytes(other)];
  const unit = right.slice(-4);
  return `${left.endsWith(unit) ? left.slice(0, -4) : left} ${sign} ${right}`;
}

/**
 * A duration: 0.052 s, 4.54 s, 42.1 s, 3 min 47 s, 1 h 02 min.
 * @param {number | null | undefined} seconds
 */
export function duration(seconds) {
  if (seconds == null) return NOT_AVAILABLE;
  if (seconds < 59.95) return `${figure(seconds)} s`;
  return wholeDuration(seconds);
}

/**
 * A duration that counts on the screen, in whole seconds: 7 s, 3 min 47 s, 1 h 02 min.
 * @param {number | null | undefined} seconds
 */
export function wholeDuration(seconds) {
  if (seconds == null) return NOT_AVAILABLE;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/**
 * A duration where there is little room: 0:07, 3:20, 1:02:05.
 * @param {number} seconds
 */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}

/**
 * Floating-point operations in TFLOP, or in GFLOP below a tenth of one.
 * @param {number | null | undefined} flops
 */
export function teraflop(flops) {
  if (flops == null) return NOT_AVAILABLE;
  return flops !== 0 && flops < 1e11 ? `${figure(flops / 1e9)} GFLOP` : `${figure(flops / 1e12)} TFLOP`;
}

/** @param {number | null | undefined} degrees */
export function celsius(degrees) {
  return degrees == null ? NOT_AVAILABLE : `${degrees.toFixed(0)} °C`;
}

/**
 * A ratio with what it was made of: "39%: 13,050 TFLOP of 33,342 TFLOP possible. Method: architecture."
 * @param {Ratio | null | undefined} ratio
 */
export function ratioDetail(ratio) {
  if (!ratio) return NOT_AVAILABLE;
  const amount = ratio.unit === "flop" ? teraflop : gibibytes;
  const made = `${amount(ratio.numerator)} of ${amount(ratio.denominator)} possible`;
  return `${percent(ratio.ratio)}: ${made}. Method: ${ratio.method}.`;
}

/** @param {Bound | null | undefined} bound */
export function verdict(bound) {
  return bound ? `${bound}-bound` : NOT_AVAILABLE;
}

/** @type {Record<StageName, string>} */
const STAGE_TITLES = {
  download: "Download",
  load: "Load",
  text_encode: "Text encode",
  image_encode: "Image encode",
  denoise: "Denoise",
  vae_encode: "VAE encode",
  vae_decode: "VAE decode",
  save: "Save",
  node: "Node",
};

/** A node's own title, or its class. @param {Pick<StageReport, "name" | "component" | "node">} stage */
export function stageTitle(stage) {
  if (stage.name === "node") return stage.node?.title ?? stage.component ?? STAGE_TITLES.node;
  const title = STAGE_TITLES[stage.name];
  return stage.component ? `${title} ${stage.component}` : title;
}

/** @type {Record<Status, string>} */
const STATUS_TITLES = {
  running: "Running",
  succeeded: "Succeeded",
  failed: "Failed",
  cancelled: "Cancelled",
  interrupted: "Interrupted",
};

/** @param {Status} status */
export function statusTitle(status) {
  return STATUS_TITLES[status];
}

const MOMENT = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hour12: false,
});

/**
 * The local date and time of a moment, to the second.
 * @param {number} unixSeconds
 */
export function moment(unixSeconds) {
  return MOMENT.format(unixSeconds * 1000);
}
