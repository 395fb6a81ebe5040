/**
 * A picture of how full each chip's memory is, no larger than an icon: a column each, or from many chips on
 * a grid of squares that tell it by their colour.
 *
 * @import { ChipReading } from "./wire.js"
 */

import { level } from "./components/meter.js";
import { setAttribute, svg, syncChildren } from "./dom.js";
import { hbmRatio } from "./readings.js";

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

/** @param {Element} picture An svg element. @param {readonly ChipReading[]} chips */
export function drawChips(picture, chips) {
  const grid = chips.length > COLUMNS_AT_MOST;
  const rows = grid ? GRID_ROWS : 1;
  const pitch = grid ? SQUARE_PITCH : COLUMN_PITCH;
  const height = grid ? pitch - 1 : COLUMN_HEIGHT;
  const columns = Math.ceil(chips.length / rows);
  setAttribute(picture, "viewBox", `0 0 ${columns * pitch} ${grid ? rows * pitch - 1 : height}`);
  syncChildren(picture, chips, createCell, (group, chip, index) => {
    const [ground, cell] = /** @type {SVGElement[]} */ ([...group.children]);
    if (!ground || !cell) return;
    const ratio = hbmRatio(chip);
    const filled = grid ? height : height * Math.min(1, ratio ?? 0);
    const top = (index % rows) * pitch;
    const box = { x: Math.floor(index / rows) * pitch, y: top, width: pitch - 1, height };
    place(ground, box);
    place(cell, { ...box, y: top + height - filled, height: filled });
    cell.style.setProperty("--ratio", String(grid ? (ratio ?? 0) : 1));
    setAttribute(cell, "data-level", ratio == null ? null : level(ratio));
    setAttribute(cell, "data-absent", ratio == null ? "" : null);
  });
}

function createCell() {
  return svg("g", {}, svg("rect", { class: "ground" }), svg("rect", { class: "cell" }));
}

/** @param {SVGElement} rect @param {Record<string, number>} box */
function place(rect, box) {
  for (const [name, value] of Object.entries(box)) setAttribute(rect, name, value.toFixed(2));
}
