/**
 * A meter small enough for a menu bar: the history behind the figure, the bar along the lower edge. As wide as the
 * user wants it, or as its words need. `data-size` is `low` for one line, `high` for larger letters.
 */

import { blueprint } from "../component.js";
import { MARKUP, Meter } from "./meter.js";

export class BarMeter extends Meter {
  static blueprint = blueprint(
    MARKUP,
    `
    :host {
      --color: var(--crystools-host); flex: none; min-width: var(--meter-width); height: var(--meter-height);
    }
    #meter {
      position: relative; display: grid; grid-template: "label" auto "figure" auto / auto;
      align-content: center; height: 100%; padding: 0 5px 3px; border-radius: 6px; overflow: hidden;
      background: var(--crystools-sunken); line-height: 1.15; cursor: default;
    }
    #head { display: contents; }
    #label, #figure { position: relative; white-space: nowrap; }
    #label { grid-area: label; font-size: 9px; color: var(--crystools-muted); }
    #figure { grid-area: figure; font-size: 12px; font-weight: 600; letter-spacing: -.01em; }
    #meter[data-absent] #figure { color: var(--crystools-muted); font-weight: 400; }
    #meter[data-level="warning"] { --color: var(--crystools-warning-fill); }
    #meter[data-level="critical"] { --color: var(--crystools-critical-fill); }
    #meter[data-level="critical"] #figure { color: var(--crystools-critical); }
    svg { position: absolute; inset: 0 0 3px; width: 100%; height: calc(100% - 3px); }
    path { vector-effect: non-scaling-stroke; fill: none; }
    #line { stroke: var(--color); stroke-width: 1; opacity: .3; }
    #area { fill: var(--color); opacity: .14; }
    .bar { position: absolute; inset: auto 0 0; height: 3px; background: var(--crystools-line); }
    #meter[role="img"] .bar { display: none; }
    #fill {
      height: 100%; background: var(--color); transform-origin: left; transform: scaleX(var(--ratio, 0));
    }
    #peak {
      position: absolute; top: 0; bottom: 0; left: calc(var(--peak, 0) * 100% - 2px); width: 1.5px;
      background: var(--crystools-ink); opacity: .7;
    }
    :host([data-size="low"]) #meter {
      grid-template: "label figure" auto / 1fr auto; column-gap: 4px; align-items: baseline;
    }
    :host([data-size="low"]) #figure { font-size: 11px; min-width: 4ch; text-align: right; }
    :host([data-size="high"]) #label { font-size: 10px; }
    :host([data-size="high"]) #figure { font-size: 14px; }
    `,
  );
}

customElements.define("crystools-bar-meter", BarMeter);
