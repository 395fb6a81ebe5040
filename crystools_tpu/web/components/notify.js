/** The switch for a notification at the end of a run. What is chosen stays in this browser. */

import { Component, blueprint } from "../component.js";
import { setText } from "../dom.js";
import { askToNotify, choose, isChosen } from "../notifications.js";

export class Notify extends Component {
  static blueprint = blueprint(
    `<label><input id="on" type="checkbox" /> Notify me when a run ends and I look elsewhere</label>
    <p id="why" role="status"></p>`,
    `
    :host { font-size: 12px; color: var(--crystools-muted); }
    label { display: inline-flex; align-items: baseline; gap: 7px; cursor: pointer; }
    #why { color: var(--crystools-warning); }
    #why:empty { display: none; }
    `,
  );

  #on = /** @type {HTMLInputElement} */ (this.byId("on"));

  constructor() {
    super();
    this.#on.checked = isChosen();
    this.#on.addEventListener("change", this.#change);
  }

  #change = async () => {
    const why = this.#on.checked ? await askToNotify() : "";
    if (why) this.#on.checked = false;
    setText(this.byId("why"), why);
    choose(this.#on.checked);
  };
}

customElements.define("crystools-notify", Notify);
