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

/** The height of a sparkline's box, so large that its points are whole numbers. */
export const SPARKLINE_HEIGHT = 100;

/**
 * SVG path data of a line through `values` and of the area under it, in a box SERIES_LENGTH - 1 wide and
 * SPARKLINE_HEIGHT high whose bottom is 0 and top is `ceiling`. The newest value is at the right edge; a null is a gap.
 *
 * @param {readonly (number | null)[]} values
 * @param {number} ceiling
 */
export function sparkline(values, ceiling) {
  const first = SERIES_LENGTH - values.length;
  let [line, area, stretch] = ["", "", ""];
  let begin = 0;
  const endStretch = () => {
    if (!stretch) return;
    line += `M${stretch}`;
    area += `M${stretch}V${SPARKLINE_HEIGHT}H${begin}Z`;
    stretch = "";
  };
  values.forEach((value, index) => {
    const at = first + index;
    if (value == null) return endStretch();
    const share = Math.min(1, Math.max(0, value / ceiling));
    const point = `${at} ${Math.round((1 - share) * SPARKLINE_HEIGHT)}`;
    if (!stretch) begin = at;
    stretch = stretch ? `${stretch}L${point}` : point;
  });
  endStretch();
  return { line, area };
}
