/**
 * One quantity: label, figure, bar with a mark at the peak seen, and the history behind it.
 *
 * @import { Series } from "../series.js"
 */

import { Component, blueprint } from "../component.js";
import { setAttribute, setStyle, setText } from "../dom.js";
import { NOT_AVAILABLE } from "../format.js";
import { SERIES_LENGTH, SPARKLINE_HEIGHT, sparkline } from "../series.js";

/** From these shares on, a quantity that can run out is shown as scarce and as nearly gone. */
const WARNING_RATIO = 0.9;
const CRITICAL_RATIO = 0.97;

const DRAWN_EVERY_MILLISECONDS = 450;

/**
 * @typedef {object} MeterReading
 * @property {string} label
 * @property {string} figure What is shown, `n/a` included.
 * @property {number | null} ratio Length of the bar, 0..1; null where it is unknown.
 * @property {Series} series
 * @property {number | null} ceiling Value of the series at the top of the sparkline; null for its peak.
 * @property {string} detail The tooltip: lines of text.
 * @property {boolean} [exhaustible] Whether a high value is a danger (memory, disk).
 */

export const MARKUP = `
  <div id="meter">
    <div id="head"><span id="label"></span><span id="figure" class="number"></span></div>
    <svg viewBox="0 0 ${SERIES_LENGTH - 1} ${SPARKLINE_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">
      <path id="area" /><path id="line" />
    </svg>
    <div class="bar" aria-hidden="true"><div id="fill"></div><div id="peak"></div></div>
  </div>`;

export class Meter extends Component {
  static blueprint = blueprint(
    MARKUP,
    `
    :host { --color: var(--crystools-host); min-width: 0; container-type: inline-size; }
    #meter {
      display: grid;
      grid-template: "head" auto "history" 13px "bar" 5px / minmax(0, 1fr);
      row-gap: 1px; align-items: baseline;
    }
    #head {
      grid-area: head; display: flex; flex-wrap: wrap; justify-content: space-between; align-items: baseline; gap: 0 8px;
    }
    @container (max-width: 92px) { #label { flex: 0 0 100%; } }
    @container (min-width: 200px) {
      #meter {
        grid-template: "label history figure" auto "bar bar bar" 5px / auto minmax(0, 1fr) auto;
        gap: 3px 8px;
      }
      #head { display: contents; }
    }
    #meter[data-level="warning"] { --color: var(--crystools-warning-fill); }
    #meter[data-level="critical"] { --color: var(--crystools-critical-fill); }
    #label { grid-area: label; font-size: 11px; color: var(--crystools-muted); overflow-wrap: anywhere; }
    #figure { grid-area: figure; font-size: 13px; font-weight: 600; }
    #meter[data-absent] #figure { color: var(--crystools-muted); font-weight: 400; }
    svg { grid-area: history; width: 100%; height: 13px; align-self: end; overflow: visible; }
    path { vector-effect: non-scaling-stroke; fill: none; }
    #line { stroke: var(--color); stroke-width: 1; opacity: .9; }
    #area { fill: var(--color); opacity: .13; }
    .bar {
      grid-area: bar; align-self: stretch; position: relative; height: 5px; border-radius: 3px;
      background: var(--crystools-sunken); overflow: hidden;
    }
    #meter[role="img"] .bar {
      background: repeating-linear-gradient(135deg, var(--crystools-sunken) 0 3px, transparent 3px 6px);
    }
    #fill {
      height: 100%; background: var(--color); transform-origin: left; transform: scaleX(var(--ratio, 0));
    }
    #peak {
      position: absolute; top: 0; bottom: 0; left: calc(var(--peak, 0) * 100% - 2px); width: 2px;
      background: var(--crystools-ink); opacity: .55;
    }
    `,
  );

  #meter = this.byId("meter");
  #label = this.byId("label");
  #figure = this.byId("figure");
  #area = this.byId("area");
  #line = this.byId("line");
  #fill = this.byId("fill");
  #peak = this.byId("peak");
  /** The history as it was drawn last. @type {{ series: Series | null, at: number }} */
  #drawn = { series: null, at: 0 };

  /** @param {MeterReading} reading */
  set reading({ label, figure, ratio, series, ceiling, detail, exhaustible = false }) {
    setText(this.#label, label);
    setText(this.#figure, figure);
    this.#describe(label, figure, ratio, detail);
    setAttribute(this.#meter, "data-level", exhaustible && ratio != null ? level(ratio) : null);
    setAttribute(this.#meter, "data-absent", figure === NOT_AVAILABLE ? "" : null);
    setStyle(this.#fill, "--ratio", String(Math.min(1, ratio ?? 0)));
    const peakRatio = ceiling && series.peak != null ? Math.min(1, series.peak / ceiling) : null;
    this.#peak.toggleAttribute("hidden", peakRatio == null || ratio == null);
    setStyle(this.#peak, "--peak", String(peakRatio ?? 0));
    this.#showHistory(series, ceiling ?? series.peak);
  }

  /** At ten readings a second it moves by less than half a pixel with each. @param {Series} series @param {number | null} top */
  #showHistory(series, top) {
    const now = performance.now();
    if (series === this.#drawn.series && now - this.#drawn.at < DRAWN_EVERY_MILLISECONDS) return;
    this.#drawn = { series, at: now };
    const { line, area } = top ? sparkline(series.values, top) : { line: "", area: "" };
    setAttribute(this.#line, "d", line);
    setAttribute(this.#area, "d", area);
  }

  /** @param {string} label @param {string} figure @param {number | null} ratio @param {string} detail */
  #describe(label, figure, ratio, detail) {
    setAttribute(this.#meter, "data-tip", detail);
    setAttribute(this.#meter, "role", ratio == null ? "img" : "meter");
    setAttribute(this.#meter, "aria-label", ratio == null ? `${label} ${figure}` : label);
    setAttribute(this.#meter, "aria-valuenow", ratio == null ? null : (ratio * 100).toFixed(0));
    setAttribute(this.#meter, "aria-valuetext", ratio == null ? null : figure);
  }
}

/** @param {number} ratio */
export function level(ratio) {
  return ratio >= CRITICAL_RATIO ? "critical" : ratio >= WARNING_RATIO ? "warning" : null;
}

customElements.define("crystools-meter", Meter);
