/**
 * Asks for a capture of jax's profiler, and says how it stands and where it is. Hidden where the server makes
 * none.
 *
 * @import { Store } from "../store.js"
 * @import { ProfileCapture } from "../wire.js"
 */

import { StoreView, blueprint } from "../component.js";
import { setAttribute, setText } from "../dom.js";

export class Profile extends StoreView {
  static showsReadings = false;
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <h2 id="title">Profiler</h2>
      <form id="form">
        <label>Profile the next <input id="steps" type="number" min="1" max="50" value="5" required /> steps</label>
        <button id="start">Start</button>
      </form>
      <p id="state" role="status"></p>
    </section>`,
    `
    form { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 10px; margin-top: 6px; font-size: 13px; }
    input, button {
      font: inherit; color: var(--crystools-ink); background: var(--crystools-sunken); padding: 3px 8px;
      border: 1px solid var(--crystools-line); border-radius: 6px;
    }
    input { width: 4.5em; }
    button:disabled { color: var(--crystools-muted); cursor: default; }
    #state { margin-top: 6px; font-size: 12px; color: var(--crystools-muted); overflow-wrap: anywhere; }
    #state[data-status="failed"] { color: var(--crystools-critical); }
    #state[data-status="written"] { color: var(--crystools-ink); user-select: text; }
    #state:empty { display: none; }
    `,
  );

  /**
   * What the server said where it refused, as long as nothing else has happened.
   * @type {{ text: string, profile: ProfileCapture | null } | null}
   */
  #refusal = null;
  /** @type {Store | null} */
  #shown = null;

  constructor() {
    super();
    this.byId("form").addEventListener("submit", this.#submit);
  }

  /** @param {Store} store */
  render(store) {
    this.#shown = store;
    const { profile } = store;
    this.hidden = profile == null;
    if (!profile) return;
    const busy = profile.status === "waiting" || profile.status === "capturing";
    const start = /** @type {HTMLButtonElement} */ (this.byId("start"));
    start.disabled = busy;
    const refusal = this.#refusal?.profile === profile ? this.#refusal : null;
    setText(this.byId("state"), refusal?.text ?? describe(profile));
    setAttribute(this.byId("state"), "data-status", refusal ? "failed" : profile.status);
  }

  /** @param {Event} event */
  #submit = async (event) => {
    event.preventDefault();
    const { value } = /** @type {HTMLInputElement} */ (this.byId("steps"));
    const store = this.#shown;
    if (!store) return;
    this.#refusal = null;
    try {
      await store.requestProfile(Number(value));
    } catch (error) {
      this.#refusal = { text: error instanceof Error ? error.message : String(error), profile: store.profile };
    }
    this.refresh();
  };
}

/** @param {ProfileCapture} profile */
function describe({ status, steps, steps_captured: captured, path, error }) {
  switch (status) {
    case "idle":
      return "";
    case "waiting":
      return `Waiting: the next ${steps} steps of a run will be captured.`;
    case "capturing":
      return captured === steps ? "Captured; writing the files." : `Capturing: ${captured} of ${steps} steps.`;
    case "written":
      return `${captured} steps: ${path}`;
    case "failed":
      return `Not captured: ${error}`;
  }
}

customElements.define("crystools-profile", Profile);
