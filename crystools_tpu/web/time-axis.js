/** What pictures of a run to scale share: the axis of time, the hatching of a compile, and the legend. */

import { h, setText, syncChildren } from "./dom.js";
import { clock } from "./format.js";

/** Distances between the marks of the time axis, in seconds; the first that gives few enough is taken. */
const TICK_SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
const TICKS_AT_MOST = 6;

export const HATCH = `<defs>
  <pattern id="hatch" patternUnits="userSpaceOnUse" width="5" height="5" patternTransform="rotate(45)">
    <rect class="hatch-ground" width="5" height="5" /><rect class="hatch-line" width="2" height="5" />
  </pattern>
</defs>`;

/**
 * Of a line of text in `<span>` that is wider than its box: it wraps out of sight, whole, for half a name or figure
 * says nothing. The box has a height and hides what overflows it.
 *
 * @param {string} box Its selector.
 */
export const WHOLE_OR_NOT = (box) => `
  ${box} { white-space: normal; }
  ${box}::before {
    content: ""; display: inline-block; width: 1px; height: 100%; margin-right: -1px; vertical-align: top;
  }
  ${box} > span { display: inline-block; white-space: nowrap; vertical-align: top; }
`;

export const AXIS_STYLE = `
  #axis {
    position: relative; height: 17px; font-size: 11px; color: var(--crystools-muted);
    border-top: 1px solid var(--crystools-line);
  }
  #axis > div {
    position: absolute; left: var(--at); width: min(var(--step), 100% - var(--at)); height: 15px; overflow: hidden;
    padding-left: 3px; border-left: 1px solid var(--crystools-line); line-height: 15px;
  }
  ${WHOLE_OR_NOT("#axis > div")}
  @container (max-width: 240px) {
    #axis > div { width: min(2 * var(--step), 100% - var(--at)); }
    #axis > :nth-child(even) { display: none; }
  }
  .hatch-ground { fill: var(--crystools-panel); }
  .hatch-line { fill: var(--crystools-muted); }
`;

export const LEGEND_STYLE = `
  figcaption {
    display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 11px; color: var(--crystools-muted);
    margin-top: 4px;
  }
  .key::before {
    content: ""; display: inline-block; width: 12px; height: 9px; margin-right: 5px; border-radius: 1px;
    background: var(--color, var(--crystools-hbm));
  }
  .key.compile::before {
    background: repeating-linear-gradient(135deg, var(--crystools-muted) 0 1.5px, transparent 1.5px 4px);
    border: 1px solid var(--crystools-muted);
  }
  .key.cached::before { height: 5px; background: var(--crystools-cached); }
  .key.expected::before { background: none; border: 1px dashed var(--color, var(--crystools-hbm)); }
  .key.nan::before { background: var(--crystools-critical); }
`;

/** Marks the times along the axis. @param {HTMLElement} axis @param {number} seconds What it spans. */
export function drawAxis(axis, seconds) {
  const create = () => h("div", {}, h("span"));
  const times = ticks(seconds);
  const at = (/** @type {number} */ time) => `${((time / (seconds || 1)) * 100).toFixed(3)}%`;
  axis.style.setProperty("--step", at(times[1] ?? seconds));
  syncChildren(axis, times, create, (tick, time) => {
    setText(/** @type {Element} */ (tick.firstElementChild), seconds < 60 ? `${Number(time.toFixed(2))} s` : clock(time));
    tick.style.setProperty("--at", at(time));
  });
}

/** @param {number} seconds */
function ticks(seconds) {
  const step = TICK_SECONDS.find((candidate) => seconds / candidate <= TICKS_AT_MOST) ?? seconds;
  const count = step > 0 ? Math.floor((seconds * 0.94) / step) + 1 : 0;
  return Array.from({ length: count }, (_, index) => index * step);
}
