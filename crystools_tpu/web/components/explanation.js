/**
 * One sentence under a run that has ended: how it compares with its last five alike, why, and what to do.
 *
 * @import { RunReport } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { Component, blueprint } from "../component.js";
import { setAttribute, setText } from "../dom.js";

export class ExplanationView extends Component {
  static blueprint = blueprint(
    `<p id="sentence" role="status"></p>`,
    `
    :host([data-empty]) { position: absolute; }
    p { font-size: 13px; overflow-wrap: anywhere; }
    p:not(:empty) { padding-left: 10px; border-left: 3px solid var(--crystools-line); }
    p[data-verdict="worse"] { border-color: var(--crystools-warning); }
    p[data-verdict="better"] { border-color: var(--crystools-good); }
    `,
  );

  /** The run that it is about, and how that ended. */
  #ending = "";

  constructor() {
    super();
    this.dataset.empty = "";
  }

  /** Asks once for each run, and shows nothing until there is an answer. @param {RunReport} run @param {Store} store */
  async show(run, store) {
    const ending = run.status === "running" ? "" : `${run.run_id} ${run.status}`;
    if (ending === this.#ending) return;
    this.#ending = ending;
    this.#say(null, null);
    const told = ending ? await store.explanation(run) : null;
    if (told && this.#ending === ending) this.#say(told.sentence, told.verdict);
  }

  /** @param {string | null} sentence @param {string | null} verdict */
  #say(sentence, verdict) {
    setAttribute(this, "data-empty", sentence ? null : ""); // not hidden, or nobody hears it when it comes
    setText(this.byId("sentence"), sentence ?? "");
    setAttribute(this.byId("sentence"), "data-verdict", verdict);
  }
}

customElements.define("crystools-explanation", ExplanationView);
