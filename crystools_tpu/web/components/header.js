/**
 * The page's head: name, version, whether the readings are simulated, the connection, the refresh rate.
 *
 * @import { ConnectionState } from "../client.js"
 * @import { Store } from "../store.js"
 */

import { StoreView, blueprint } from "../component.js";
import { connectionText } from "../connection-text.js";
import { h, setAttribute, setText } from "../dom.js";

const INTERVALS_SECONDS = [0.25, 0.5, 1, 2, 5];

export class Header extends StoreView {
  static tickSeconds = 1;
  static blueprint = blueprint(
    `<header>
      <div class="brand">
        <h1>Crystools <span>TPU</span></h1> <small id="version" class="muted number"></small>
      </div>
      <p id="simulated" class="badge" tabindex="0" hidden
        data-tip="These readings come from a simulated machine, not from hardware."></p>
      <p id="connection" role="status"><span class="dot"></span><span id="state"></span></p>
      <label>Refresh
        <select id="interval">
          <option value="">Server's rate</option>
          ${INTERVALS_SECONDS.map((seconds) => `<option value="${seconds}">${seconds} s</option>`).join("")}
          <option value="0">Off</option>
        </select>
      </label>
    </header>
    <p id="problem" role="alert" hidden></p>`,
    `
    :host {
      position: sticky; top: 0; z-index: 1; background: var(--crystools-panel);
      border-bottom: 1px solid var(--crystools-line);
    }
    header {
      display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; max-width: 1680px; margin: 0 auto;
      padding: 8px 16px;
    }
    p { margin: 0; }
    .brand { flex: 1; white-space: nowrap; }
    h1 { display: inline; margin: 0; font-size: 15px; letter-spacing: -.01em; }
    h1 span { color: var(--crystools-hbm); }
    small { font-size: 11px; }
    .badge {
      padding: 2px 8px; border-radius: 5px; font-size: 11px; font-weight: 700; letter-spacing: .06em;
      color: var(--crystools-warning); background: var(--crystools-warning-panel);
      border: 1px solid currentColor;
    }
    #connection { display: flex; align-items: center; gap: 7px; font-size: 12px; min-width: 6.5em; }
    .dot { width: 8px; height: 8px; border-radius: 50%; background: var(--crystools-warning); }
    #connection[data-state="live"] .dot { background: var(--crystools-good); }
    #connection[data-state="paused"] .dot { background: var(--crystools-muted); }
    label { display: flex; align-items: center; gap: 6px; font-size: 12px; color: var(--crystools-muted); }
    select {
      color: var(--crystools-ink); background: var(--crystools-sunken);
      border: 1px solid var(--crystools-line);
      border-radius: 6px; padding: 3px 6px; font-size: 12px;
    }
    #problem {
      max-width: 1680px; margin: 0 auto; padding: 6px 16px; font-size: 13px; color: var(--crystools-critical);
      background: var(--crystools-critical-panel);
    }
    @media (max-width: 480px) { header { padding: 8px 12px; } #version { display: none; } }
    `,
  );

  #interval = /** @type {HTMLSelectElement} */ (this.byId("interval"));

  constructor() {
    super();
    this.#interval.addEventListener("change", () => {
      const { value } = this.#interval;
      this.dispatchEvent(new CustomEvent("interval", { detail: value === "" ? null : Number(value) }));
    });
  }

  /** @param {Store} store */
  render(store) {
    setText(this.byId("version"), store.hello?.version ?? "");
    this.#renderSimulated(store.simulated);
    const [state, text] = connectionText(store);
    setAttribute(this.byId("connection"), "data-state", state);
    setText(this.byId("state"), text);
    this.#renderInterval(store);
    this.byId("problem").hidden = store.problem == null;
    setText(this.byId("problem"), store.problem ?? "");
  }

  /** @param {string | boolean} simulated */
  #renderSimulated(simulated) {
    const badge = this.byId("simulated");
    badge.hidden = !simulated;
    setText(badge, typeof simulated === "string" ? `SIMULATED ${simulated}` : "SIMULATED");
  }

  /** @param {Store} store */
  #renderInterval(store) {
    const chosen = store.chosenIntervalSeconds;
    const value = chosen == null ? "" : String(chosen);
    if (![...this.#interval.options].some((option) => option.value === value)) {
      this.#interval.append(h("option", { value }, `${value} s`));
    }
    if (this.#interval.value !== value) this.#interval.value = value;
    const own = store.hello?.settings.interval_seconds;
    const [automatic] = this.#interval.options;
    if (automatic && own != null) setText(automatic, `Server's (${own} s)`);
  }
}

customElements.define("crystools-header", Header);
