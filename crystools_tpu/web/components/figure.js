/**
 * A figure that explains itself: hover or focus shows what it was made of, in a strip below the nearest
 * positioned ancestor.
 */

import { isAbsent } from "../applicable.js";
import { Component, blueprint } from "../component.js";
import { setAttribute, setText } from "../dom.js";

export class Figure extends Component {
  static blueprint = blueprint(
    `<div id="box" tabindex="0" role="group"><div id="label"></div><div id="value" class="number"></div></div>
    <div id="tip" role="tooltip"></div>`,
    `
    :host { min-width: 0; }
    #box { border-radius: 6px; }
    #label { font-size: 11px; color: var(--crystools-muted); white-space: nowrap; }
    #value { font-size: 17px; font-weight: 600; letter-spacing: -.01em; line-height: 1.3; }
    #value[data-absent] { color: var(--crystools-muted); font-weight: 400; }
    #tip {
      position: absolute; z-index: 2; top: 100%; left: 0; right: 0; display: none; padding: 7px 10px;
      border-radius: 0 0 6px 6px; font-size: 12px; overflow-wrap: anywhere;
      background: var(--crystools-ink); color: var(--crystools-panel); pointer-events: none;
    }
    #box:hover + #tip, #box:focus-visible + #tip { display: block; }
    `,
  );

  /** @param {string} label @param {string} value @param {string} detail */
  show(label, value, detail) {
    setText(this.byId("label"), label);
    setText(this.byId("value"), value);
    setAttribute(this.byId("value"), "data-absent", isAbsent(value) ? "" : null);
    setText(this.byId("tip"), detail);
    setAttribute(this.byId("box"), "aria-label", `${label}: ${value}. ${detail}`);
  }
}

customElements.define("crystools-figure", Figure);
