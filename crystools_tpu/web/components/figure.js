/** A figure that explains itself: what it was made of. */

import { isAbsent } from "../applicable.js";
import { Component, blueprint } from "../component.js";
import { setAttribute, setText } from "../dom.js";

export class Figure extends Component {
  static blueprint = blueprint(
    `<div id="box" tabindex="0" role="group"><div id="label"></div><div id="value" class="number"></div></div>`,
    `
    :host { min-width: 0; }
    #box { border-radius: 6px; }
    #label { font-size: 11px; color: var(--crystools-muted); white-space: nowrap; }
    #value { font-size: 17px; font-weight: 600; letter-spacing: -.01em; line-height: 1.3; }
    #value[data-absent] { color: var(--crystools-muted); font-weight: 400; }
    `,
  );

  /** @param {string} label @param {string} value @param {string} detail */
  show(label, value, detail) {
    setText(this.byId("label"), label);
    setText(this.byId("value"), value);
    setAttribute(this.byId("value"), "data-absent", isAbsent(value) ? "" : null);
    setAttribute(this.byId("box"), "aria-label", `${label}: ${value}. ${detail}`);
    setAttribute(this.byId("box"), "data-tip", detail);
  }
}

customElements.define("crystools-figure", Figure);
