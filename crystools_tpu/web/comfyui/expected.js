/**
 * The part of the sidebar with what is expected of the workflow that is open, and what its last run took.
 *
 * @import { Store } from "../store.js"
 * @import { ExpectedNode, Shape } from "../wire.js"
 * @import { App } from "./comfyui.js"
 * @import { Expectations } from "./expectations.js"
 */

import { StoreView, blueprint } from "../component.js";
import { h, setText, syncChildren } from "../dom.js";
import { aboutDetail, aboutText, lorasText, misfitText, offerText, tookText } from "./expected-text.js";
import { applyShape } from "./shapes.js";

export class ExpectedView extends StoreView {
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title" role="status">
      <h2 id="title">This workflow</h2>
      <p id="about" class="number"></p>
      <p id="detail" class="muted"></p>
      <p id="loras" class="muted"></p>
      <div id="misfits"></div>
      <p id="took"></p>
    </section>`,
    `
    section { display: grid; gap: 4px; }
    p, #misfits { font-size: 13px; overflow-wrap: anywhere; }
    p:empty, #misfits:empty { display: none; }
    #about { font-size: 19px; font-weight: 650; letter-spacing: -.01em; white-space: normal; }
    #misfits > div { display: grid; justify-items: start; gap: 6px; }
    #misfits p {
      color: var(--crystools-warning); background: var(--crystools-warning-panel); border-radius: 6px;
      padding: 7px 10px;
    }
    #misfits span { display: flex; flex-wrap: wrap; gap: 6px; }
    button {
      padding: 4px 12px; font-size: 12px; border-radius: 6px; border: 1px solid var(--crystools-line);
      background: var(--crystools-sunken);
    }
    button:hover { border-color: currentColor; }
    `,
  );

  /** @type {Expectations | null} */
  #expectations = null;
  /** @type {App | null} */
  #app = null;

  /** @param {App} app @param {Expectations} expectations */
  show(app, expectations) {
    if (this.#expectations) return;
    this.#app = app;
    this.#expectations = expectations;
    expectations.isWanted = () => this.isConnected;
    expectations.addEventListener("change", () => this.refresh());
    this.refresh();
  }

  /** @param {Store} store */
  render(store) {
    const answer = this.#expectations?.answer;
    const price = store.pricePerChipHour;
    const ended = this.#expectations?.ended;
    const about = answer ? aboutText(answer, price) : "";
    const detail = answer ? aboutDetail(answer, price) : "";
    const loras = answer ? lorasText(answer) : "";
    const took = ended ? tookText(ended.run, ended.expectedSeconds, price) : "";
    const misfits = answer?.nodes.filter(({ fits }) => fits === false) ?? [];
    this.hidden = !(about || detail || loras || took || misfits.length);
    setText(this.byId("about"), about);
    setText(this.byId("detail"), detail);
    setText(this.byId("loras"), loras);
    setText(this.byId("took"), took);
    syncChildren(
      this.byId("misfits"),
      misfits,
      () => h("div", {}, h("p"), h("span")),
      (row, node) => this.#showMisfit(row, node),
    );
  }

  /** @param {Element} row @param {ExpectedNode} node */
  #showMisfit(row, node) {
    setText(/** @type {Element} */ (row.firstElementChild), misfitText(node));
    const app = this.#app;
    if (app) showOffers(/** @type {Element} */ (row.lastElementChild), app, node);
  }
}

/**
 * A button for each shape that would fit.
 *
 * @param {Element} place
 * @param {App} app
 * @param {ExpectedNode} node
 */
export function showOffers(place, app, node) {
  const shapes = node.shape_nodes.length ? node.would_fit : [];
  const create = () => h("button", { type: "button" });
  syncChildren(place, shapes, create, (button, /** @type {Shape} */ shape) => {
    setText(button, offerText(shape));
    button.onclick = () => applyShape(app, node.shape_nodes, shape);
  });
}

customElements.define("crystools-expected", ExpectedView);
