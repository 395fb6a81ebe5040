/**
 * What a run costs, for whoever says what a chip-hour does. The same as `telemetry/cost.py`.
 *
 * @import { RunReport } from "./wire.js"
 */

const SECONDS_AN_HOUR = 3600;

/**
 * In the price's currency; null where the price, the chips or the time are not known.
 *
 * @param {number | null | undefined} chips
 * @param {number | null | undefined} seconds
 * @param {number | null} pricePerChipHour
 */
export function costOf(chips, seconds, pricePerChipHour) {
  if (chips == null || seconds == null || pricePerChipHour == null) return null;
  return ((chips * seconds) / SECONDS_AN_HOUR) * pricePerChipHour;
}

/** Of money: 12.30, and below a tenth two figures: 0.0031. @param {number} value */
export function amount(value) {
  if (value <= 0) return value.toFixed(2);
  return value.toFixed(Math.min(8, Math.max(2, 1 - Math.floor(Math.log10(value)))));
}

/** "8 chips at 1.20 a chip-hour" @param {number} chips @param {number} pricePerChipHour */
export function rateText(chips, pricePerChipHour) {
  const count = Number.isInteger(chips) ? chips : chips.toFixed(1);
  return `${count} chip${chips === 1 ? "" : "s"} at ${amount(pricePerChipHour)} a chip-hour`;
}

/**
 * The cost of a run in words, and of what it was made; empty where it is not known.
 *
 * @param {RunReport} run
 * @param {number | null} pricePerChipHour
 * @returns {{ text: string, detail: string }}
 */
export function costText({ device, total_seconds: seconds }, pricePerChipHour) {
  const cost = costOf(device?.chips, seconds, pricePerChipHour);
  if (cost == null || !device || pricePerChipHour == null) return { text: "", detail: "" };
  return { text: `cost ${amount(cost)}`, detail: rateText(device.chips, pricePerChipHour) };
}
