/**
 * A picture of how full each chip's memory is, no larger than an icon: a column each, or from many chips on
 * a grid of squares that tell it by their colour.
 *
 * @import { ChipReading } from "./wire.js"
 */

import { level } from "./components/meter.js";
import { setAttribute, setStyle, svg, syncChildren } from "./dom.js";
import { hbmRatio, shade } from "./readings.js";

/** More chips than this make a grid, filled column by column. */
const COLUMNS_AT_MOST = 16;
const GRID_ROWS = 10;

/** Sizes in the picture's own units: from one column or square to the next, and the height of a column. */
const COLUMN_PITCH = 5;
const COLUMN_HEIGHT = 24;
const SQUARE_PITCH = 3;


export const CHIPS_PICTURE = `
  .ground { fill: var(--crystools-line); }
  .cell { fill: color-mix(in oklab, var(--crystools-hbm) calc(22% + var(--ratio) * 78%), transparent); }
  .cell[data-level="warning"] { fill: var(--crystools-warning-fill); }
  .cell[data-level="critical"] { fill: var(--crystools-critical-fill); }
  .cell[data-absent] { fill: none; }
`;

/** How many chips each picture has places for. @type {WeakMap<Element, number>} */
const laidOut = new WeakMap();

/** @param {Element} picture An svg element. @param {readonly ChipReading[]} chips */
export function drawChips(picture, chips) {
  const grid = chips.length > COLUMNS_AT_MOST;
  if (laidOut.get(picture) !== chips.length) layOut(picture, chips, grid);
  chips.forEach((chip, index) => {
    const cell = /** @type {SVGElement} */ (picture.children[index]?.lastElementChild);
    const ratio = hbmRatio(chip);
    if (!grid) fill(cell, ratio ?? 0);
    setStyle(cell, "--ratio", grid ? shade(ratio ?? 0) : "1");
    setAttribute(cell, "data-level", ratio == null ? null : level(ratio));
    setAttribute(cell, "data-absent", ratio == null ? "" : null);
  });
}

/** Gives each chip its place. @param {Element} picture @param {readonly ChipReading[]} chips @param {boolean} grid */
function layOut(picture, chips, grid) {
  laidOut.set(picture, chips.length);
  const rows = grid ? GRID_ROWS : 1;
  const pitch = grid ? SQUARE_PITCH : COLUMN_PITCH;
  const height = grid ? pitch - 1 : COLUMN_HEIGHT;
  const columns = Math.ceil(chips.length / rows);
  setAttribute(picture, "viewBox", `0 0 ${columns * pitch} ${grid ? rows * pitch - 1 : height}`);
  syncChildren(picture, chips, createCell, (group, _, index) => {
    const place = { x: Math.floor(index / rows) * pitch, y: (index % rows) * pitch, width: pitch - 1, height };
    for (const rect of group.children) {
      for (const [name, value] of Object.entries(place)) setAttribute(rect, name, String(value));
    }
  });
}

/** How high a column stands. @param {SVGElement} column @param {number} ratio */
function fill(column, ratio) {
  const height = COLUMN_HEIGHT * Math.min(1, ratio);
  setAttribute(column, "y", (COLUMN_HEIGHT - height).toFixed(2));
  setAttribute(column, "height", height.toFixed(2));
}

function createCell() {
  return svg("g", {}, svg("rect", { class: "ground" }), svg("rect", { class: "cell" }));
}
