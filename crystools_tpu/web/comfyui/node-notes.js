/**
 * What is expected of the workflow, below each of its samplers on the canvas: nothing is added to the nodes, so
 * that they are saved as ever.
 *
 * @import { Store } from "../store.js"
 * @import { ExpectedNode } from "../wire.js"
 * @import { App, GraphNode } from "./comfyui.js"
 * @import { Expectations } from "./expectations.js"
 */

import { h, setAttribute, setText, syncChildren } from "../dom.js";
import { nodeById } from "./canvas.js";
import { aboutText, tookText } from "./expected-text.js";
import { showOffers } from "./expected.js";

const GAP_PIXELS = 4;

/** A node's title is above where it says that it is. */
const TITLE_PIXELS = 30;

/** Where nodes are drawn smaller nobody could read it. */
const LEGIBLE_SCALE = 0.4;

export class NodeNotes {
  #app;
  #store;
  #expectations;
  #layer = h("div", { class: "crystools-notes" });
  /** @type {readonly ExpectedNode[]} */
  #shown = [];
  #follows = false;

  /** @param {App} app @param {Store} store @param {Expectations} expectations */
  constructor(app, store, expectations) {
    this.#app = app;
    this.#store = store;
    this.#expectations = expectations;
    expectations.addEventListener("change", () => this.refresh());
  }

  /** After another answer, or another price. */
  refresh() {
    const { answer, ended } = this.#expectations;
    const price = this.#store.pricePerChipHour;
    const took = ended ? tookText(ended.run, ended.expectedSeconds, price) : "";
    const about = took || (answer ? aboutText(answer, price) : "");
    this.#shown = (answer?.nodes ?? []).filter((node) => about || node.fits === false);
    const create = () => h("div", {}, h("span"), h("span"));
    syncChildren(this.#layer, this.#shown, create, (note, node) => {
      const misfit = node.fits === false;
      setText(/** @type {Element} */ (note.firstElementChild), misfit ? "Does not fit" : about);
      setAttribute(note, "data-level", misfit ? "warning" : null);
      showOffers(/** @type {Element} */ (note.lastElementChild), this.#app, node);
    });
    if (this.#shown.length && !this.#follows) this.#follow();
  }

  /** Keeps the notes at their nodes while there are any; ComfyUI draws a frame as often. */
  #follow = () => {
    this.#follows = this.#shown.length > 0;
    if (!this.#follows) return this.#layer.remove();
    const canvas = this.#app.canvas?.canvas;
    if (canvas && this.#layer.parentElement !== canvas.parentElement) canvas.after(this.#layer);
    this.#shown.forEach((shown, index) => {
      const note = /** @type {HTMLElement} */ (this.#layer.children[index]);
      const at = this.#placeOf(nodeById(this.#app, shown.node.id));
      if (note.hidden !== (at == null)) note.hidden = at == null;
      if (at != null && note.style.transform !== at) note.style.transform = at;
    });
    requestAnimationFrame(this.#follow);
  };

  /** Where a note is; null where its node is not in sight. @param {ReturnType<typeof nodeById>} found */
  #placeOf(found) {
    const { graph, ds } = this.#app.canvas ?? {};
    if (!found || !ds?.offset || ds.scale < LEGIBLE_SCALE) return null;
    if (graph && graph !== found.graph) return null;
    const { pos, size, flags } = /** @type {GraphNode} */ (found.node);
    if (!pos || flags?.collapsed) return null;
    const height = size[1] + this.#taller(found.node);
    const [x, y] = [pos[0] + ds.offset[0], pos[1] + height + GAP_PIXELS + ds.offset[1]];
    return `translate(${x * ds.scale}px, ${y * ds.scale}px) scale(${ds.scale})`;
  }

  /** By how much ComfyUI's Nodes 2.0, which are elements, are taller than they say. @param {GraphNode} node */
  #taller({ id, size }) {
    const element = this.#layer.parentElement?.querySelector(`[data-node-id="${CSS.escape(String(id))}"]`);
    if (!(element instanceof HTMLElement)) return 0;
    return Math.max(0, element.offsetHeight - TITLE_PIXELS - size[1]);
  }
}
