/** How many points a series keeps: two minutes at the default half-second. */
export const SERIES_LENGTH = 240;

/** The last readings of one quantity, oldest first, and the largest ever seen. `null` is a gap. */
export class Series {
  /** @type {(number | null)[]} */
  values = [];
  /** @type {number | null} */
  peak = null;

  /** @param {number | null} value */
  push(value) {
    this.values.push(value);
    if (this.values.length > SERIES_LENGTH) this.values.shift();
    if (value != null && (this.peak == null || value > this.peak)) this.peak = value;
  }
}

/**
 * SVG path data of a line through `values` and of the area under it, in a box SERIES_LENGTH - 1 wide and 1
 * high whose bottom is 0 and top is `ceiling`. The newest value is at the right edge; a null is a gap.
 *
 * @param {readonly (number | null)[]} values
 * @param {number} ceiling
 */
export function sparkline(values, ceiling) {
  const first = SERIES_LENGTH - values.length;
  let [line, area] = ["", ""];
  /** @type {string[]} */
  let points = [];
  const endStretch = (/** @type {number} */ end) => {
    if (!points.length) return;
    line += `M${points.join("L")}`;
    area += `M${points.join("L")}V1H${end - points.length}Z`;
    points = [];
  };
  values.forEach((value, index) => {
    if (value == null) endStretch(first + index);
    else points.push(`${first + index} ${(1 - Math.min(1, Math.max(0, value / ceiling))).toFixed(3)}`);
  });
  endStretch(SERIES_LENGTH);
  return { line, area };
}
